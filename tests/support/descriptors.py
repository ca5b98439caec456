"""A process that has almost no descriptors left, by the kernel's own limit, or a great many open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open `count` more descriptors and then none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        # The numbers below the limit that are free, but for the last ones.
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        while not taken or taken[-1] < highest + count:
            taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        limit = taken[-1] + 1
        for fd in [taken.pop() for _ in range(count)]:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


@contextlib.contextmanager
def high_descriptor(fd: int) -> Iterator[int]:
    """Give a copy of `fd` with a number beyond the first 1,024, and let the next one be opened too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = 1_024
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 8), hard))
    try:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
        try:
            yield copy
        finally:
            os.close(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
