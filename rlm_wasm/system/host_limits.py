"""The limits that the kernel keeps this process to, as far as guests need room below them.

Looked at before anything is started, because what meets one in the middle cannot say so: an address space
that is too small aborts in native code, descriptors run out where a failure could no longer be told.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import HostExhausted

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class HostLimit:
    """One limit: what a first session needs of it inline and in a worker process, measured and rounded up."""

    name: str
    number: int
    inline: int
    processes: int
    what: str
    # How a shell sets it, in a unit of its own.
    flag: str

    def in_shell(self, value: int) -> int:
        """Return the value as `ulimit` takes it."""
        unit = {"-n": 1, "-u": 1, "-f": 512}.get(self.flag, 1024)  # -f counts blocks in a POSIX shell
        return -(-value // unit)


HOST_LIMITS: Final = (
    HostLimit("RLIMIT_NOFILE", resource.RLIMIT_NOFILE, 16, 16, "descriptors", "-n"),
    # A guest reserves 4 GiB and a guard. A zygote warms up with three sessions at once.
    HostLimit("RLIMIT_AS", resource.RLIMIT_AS, 5 * _GIB, 13 * _GIB, "bytes of address space", "-v"),
    # Python and the engine with the guest's code; what guests write comes on top.
    HostLimit("RLIMIT_DATA", resource.RLIMIT_DATA, 160 * _MIB, 160 * _MIB, "bytes of data", "-d"),
    # The base image and the native code are memory files.
    HostLimit("RLIMIT_FSIZE", resource.RLIMIT_FSIZE, 40 * _MIB, 40 * _MIB, "bytes in a file", "-f"),
    # Below it Python itself crashes.
    HostLimit("RLIMIT_STACK", resource.RLIMIT_STACK, _MIB // 8, _MIB // 8, "bytes of stack", "-s"),
    # All of the user's count, for who is not root; a zygote has two, and a thread's failure is told.
    HostLimit("RLIMIT_NPROC", resource.RLIMIT_NPROC, 0, 5, "processes and threads", "-u"),
)
# What may be the reason where the kernel answers so.
_BEHIND: Final = {
    errno.EMFILE: ("RLIMIT_NOFILE",),
    errno.ENOMEM: ("RLIMIT_AS", "RLIMIT_DATA"),
    errno.EFBIG: ("RLIMIT_FSIZE",),
    errno.EAGAIN: ("RLIMIT_NPROC",),
}
_UNDER: Final = resource.RLIM_INFINITY


def soft_limit(limit: HostLimit) -> int | None:
    """Return what holds for this process now; None: nothing."""
    value = resource.getrlimit(limit.number)[0]
    return None if value == _UNDER else value


def shortfalls(
    *, processes: bool, soft: Callable[[HostLimit], int | None] = soft_limit
) -> Iterator[tuple[HostLimit, int, int]]:
    """Yield each limit that leaves no room for a session, with what it is and what is needed."""
    for limit in HOST_LIMITS:
        value, needed = soft(limit), limit.processes if processes else limit.inline
        if value is not None and value < needed:
            yield limit, value, needed


def check_host_limits(
    *,
    processes: bool,
    soft: Callable[[HostLimit], int | None] = soft_limit,
    proc: str = "/proc/self/fd",
) -> None:
    """Refuse to start guests under a limit that leaves no room for one, or without /proc.

    Raises:
        HostExhausted: it names every such limit, what it is and what is needed.
    """
    if not os.path.isdir(proc):
        raise HostExhausted(
            f"{proc} is not there, by which guests and their processes are loaded and watched",
            hint="mount -t proc proc /proc",
        )
    found = list(shortfalls(processes=processes, soft=soft))
    if found:
        told = (
            f"{limit.name} is {value}, and a session takes {needed} {limit.what}"
            for limit, value, needed in found
        )
        raises = (f"ulimit {limit.flag} {limit.in_shell(needed)}" for limit, _, needed in found)
        raise HostExhausted(
            f"guests have no room below the limits of this process: {'; '.join(told)}",
            hint=f"raise it where this was started, to at least: {'; '.join(raises)}",
        )


def limits_behind(code: int) -> str | None:
    """Return a sentence on the limits that may have made the kernel answer so; None if nothing limits it."""
    names = _BEHIND.get(code, ())
    values = {limit.name: soft_limit(limit) for limit in HOST_LIMITS if limit.name in names}
    told = " and ".join(f"{name} is {value}" for name, value in values.items() if value is not None)
    return f"of this process, {told}" if told else None
