"""The lock on an event log that is being written: its process holds it, and loses it with its life."""

from __future__ import annotations

import fcntl


def hold(fd: int) -> bool:
    """Lock a log that is to be written, for as long as it is open; return whether nobody else writes it."""
    return _lock(fd, fcntl.LOCK_EX)


def is_being_written(fd: int) -> bool:
    """Say whether a process writes the log that is open for reading."""
    return not _lock(fd, fcntl.LOCK_SH)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nothing is known
    return True
