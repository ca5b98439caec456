"""The lock on an event log that is written or taken up: its process holds it, and loses it with its life."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rlm_wasm.errors import UsageError

_IN_USE = "a process writes this log, or takes it up: its run is not over"


def hold(fd: int) -> bool:
    """Lock a log that is to be written, for as long as it is open; return whether nobody else uses it."""
    try:
        return _lock(fd, fcntl.LOCK_EX)
    except OSError:
        return True  # a file system without locks: nobody can be kept out, and nothing is lost by writing


def why_not_taken_up(fd: int) -> str | None:
    """Return why nobody may take up the run of the log that is open, if there is a reason."""
    return _why_not(fd, fcntl.LOCK_SH)


@contextmanager
def taken_up(path: str) -> Iterator[None]:
    """Keep everybody else from writing a log or taking its run up. Raises UsageError if somebody does."""
    try:
        fd = _open(path)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        if (why := _why_not(fd, fcntl.LOCK_EX)) is not None:
            raise UsageError(f"{path}: {why}")
        yield
    finally:
        os.close(fd)


def _open(path: str) -> int:
    # Nothing is written, but a network's file system locks for one alone only what is open for writing. And a
    # pipe, which nobody writes any more, must not keep anybody waiting.
    flags = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_RDWR)
    except OSError as exc:
        if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, flags | os.O_RDONLY)


def _why_not(fd: int, kind: int) -> str | None:
    try:
        return None if _lock(fd, kind) else _IN_USE
    except OSError as exc:
        why = f"cannot be locked ({exc.strerror}), so nobody knows whether its run still writes it"
        return f"{why}: when that is gone, copy the log to where files can be locked"


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
