"""The contents of this user's cache: what each entry is, its size, its last use, and whether it may go.

Everything in a cache can be made again. Links are never followed: one that lies there is an entry itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.guest import MAC_FILE
from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.artifacts.shipped import LOCK_FILE

# Each folder of a cache, and what its entries are.
AREAS: Final = {
    "guests": "a guest: its code and its base image",
    "compiled": "native code of a guest, for this machine",
    "build": "a stage of building a guest",
    "downloads": "a source or tool that guests are built from",
    "logs": "the log of a stage's last build",
}
# The file by which those wait for one another who work on an area.
_LOCKS: Final = {"guests": LOCK_FILE, "build": "lock", "downloads": "lock", "logs": "lock"}
# Who began something this long ago has ended, or been ended.
_LEFT_BEHIND_NS: Final = 24 * 3_600 * 10**9
# What was used this recently may be being read.
_JUST_USED_NS: Final = 3_600 * 10**9


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One file or folder in one area of the cache."""

    area: str
    name: str
    path: Path
    size_bytes: int
    used_ns: int
    # This program would use it now.
    current: bool

    @property
    def unfinished(self) -> bool:
        """Whether it is what somebody has not finished yet, or never will."""
        return self.name.startswith(".") or self.name.endswith(".part")

    def may_go(self, now_ns: int, unused_ns: int) -> bool:
        """Whether it may be removed by who removes what was not used for so long."""
        if self.current:
            return False
        least = _LEFT_BEHIND_NS if self.unfinished else max(unused_ns, _JUST_USED_NS)
        return now_ns - self.used_ns >= least


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, and the areas in which somebody is at work."""

    removed: tuple[CacheEntry, ...]
    busy: tuple[str, ...]


def cache_contents(current: frozenset[Path]) -> list[CacheEntry]:
    """Return everything in this user's cache; `current` are the paths that this program would use now."""
    return [entry for area in AREAS for entry in _entries(area, current)]


def prune(current: frozenset[Path], now_ns: int, unused_ns: int, *, dry_run: bool) -> Pruned:
    """Remove what may go, or with `dry_run` only say what; what somebody is at work on is left alone."""
    removed: list[CacheEntry] = []
    busy: list[str] = []
    for area in AREAS:
        with _alone(area) as alone:
            if not alone:
                busy.append(area)
                continue
            # Looked at under the lock: what was used meanwhile says so.
            for entry in _entries(area, current):
                if entry.may_go(now_ns, unused_ns) and (dry_run or _removed(entry.path)):
                    removed.append(entry)
    return Pruned(tuple(removed), tuple(busy))


def _entries(area: str, current: frozenset[Path]) -> Iterator[CacheEntry]:
    folder = cache_dir() / area
    with suppress(FileNotFoundError, NotADirectoryError):
        with os.scandir(folder) as found:
            names = sorted(each.name for each in found)
        for name in names:
            if name == _LOCKS.get(area):
                continue
            path = folder / name
            with suppress(FileNotFoundError):  # removed by another at this moment
                size, used = _measured(path)
                yield CacheEntry(area, name, path, size, used, path in current)


def _measured(path: Path) -> tuple[int, int]:
    """Return how many bytes lie there, and when it was used last."""
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return facts.st_size, facts.st_mtime_ns
    used = facts.st_mtime_ns
    with suppress(OSError):
        used = max(used, (path / MAC_FILE).lstat().st_mtime_ns)
    size = 0
    for base, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):
                size += os.lstat(os.path.join(base, file)).st_size
    return size, used


@contextmanager
def _alone(area: str) -> Iterator[bool]:
    """Hold whatever guards an area, if nobody else does; say whether that is so."""
    name = _LOCKS.get(area)
    # A build publishes guests too, and is not to be waited for: it may take minutes.
    paths = [] if name is None else [cache_dir() / ("guests" if area == "guests" else "build") / name]
    if area == "guests":
        paths.append(cache_dir() / "build" / "lock")
    with ExitStack() as held:
        for path in paths:
            with suppress(FileNotFoundError):  # nobody ever worked there
                lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                held.callback(os.close, lock)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield False
                    return
        yield True


def _removed(path: Path) -> bool:
    """Remove a file, a link or a folder; say whether it is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
