"""A lock in a file, by which processes wait for one another: some minutes at most, and not when they end."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Final

from rlm_wasm.errors import ArtifactError

_LOOK_SECONDS: Final = 0.05
# Five minutes: what is done under such a lock takes seconds, or a minute where the machine is busy.
_LOOKS_MAX: Final = 6_000


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock in `path`, which is made if need be: who comes second waits.

    Raises:
        ArtifactError: the file cannot be used, or another process does not let go of it.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ArtifactError(
            f"cannot open the lock {path}: {error.strerror}", hint=f"look at it, and remove it: rm {path}"
        ) from error
    try:
        _take(lock, path)
        yield
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    for _ in range(_LOOKS_MAX):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not threading.main_thread().is_alive():
                raise ArtifactError(f"the program ends while it waits for {path}") from None
            sleep(_LOOK_SECONDS)
        except OSError as error:
            raise ArtifactError(f"cannot lock {path}: {error.strerror}") from error
        else:
            return
    raise ArtifactError(
        f"another process holds the lock {path}, for minutes",
        hint=f"wait for it, or end it; this shows which it is: fuser -v {path}",
    )
