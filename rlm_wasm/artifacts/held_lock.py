"""A lock in a file, by which processes wait for one another: for so long at most, and not when they end."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import sleep
from typing import Final

from rlm_wasm.errors import ArtifactError

_LOOK_SECONDS: Final = 0.05
# What is done under most such locks takes seconds, or a minute where the machine is busy.
_SECONDS_MAX: Final = 300


@contextmanager
def held_lock(
    path: Path, *, seconds_max: float | None = _SECONDS_MAX, waiting: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold the lock in `path`, which is made if need be: who comes second calls `waiting`, and waits.

    Raises:
        ArtifactError: the file cannot be used, or another process does not let go of it for `seconds_max`,
            if that is a number.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ArtifactError(
            f"cannot open the lock {path}: {error.strerror}", hint=f"look at it, and remove it: rm {path}"
        ) from error
    try:
        if not _taken(lock, path):
            waiting()
            _wait(lock, path, seconds_max)
        yield
    finally:
        os.close(lock)


def _wait(lock: int, path: Path, seconds_max: float | None) -> None:
    looks = count() if seconds_max is None else range(max(1, round(seconds_max / _LOOK_SECONDS)))
    for _ in looks:
        if _taken(lock, path):
            return
        if not threading.main_thread().is_alive():
            raise ArtifactError(f"the program ends while it waits for {path}")
        sleep(_LOOK_SECONDS)
    raise ArtifactError(
        f"another process holds the lock {path}, for {seconds_max:g} seconds now",
        hint=f"wait for it, or end it; this shows which it is: fuser -v {path}",
    )


def _taken(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ArtifactError(f"cannot lock {path}: {error.strerror}") from error
    return True
