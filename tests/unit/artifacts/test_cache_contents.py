"""What a cache holds and what may go: nothing that is in use, nothing that a link points to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlm_wasm.artifacts.cache_contents import AREAS, cache_contents, prune
from rlm_wasm.artifacts.guest import MAC_FILE
from rlm_wasm.artifacts.paths import cache_dir

pytestmark = pytest.mark.usefixtures("own_folders")

DAY_NS = 24 * 3_600 * 10**9
NOW_NS = 1_000 * DAY_NS
NOBODY: frozenset[Path] = frozenset()


def put(place: str, days: float, size: int = 10) -> Path:
    """Put a file there, or, where the name ends in a slash, a folder with one in it; used so long ago."""
    path = cache_dir() / place
    used = NOW_NS - int(days * DAY_NS)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if place.endswith("/"):
        path.mkdir()
        put(f"{place}file", days, size)
    else:
        path.write_bytes(bytes(size))
    os.utime(path, ns=(used, used))
    return path


def names(entries: object) -> set[str]:
    assert isinstance(entries, tuple | list)
    return {f"{entry.area}/{entry.name}" for entry in entries}


def test_every_entry_is_told_with_its_size_and_its_last_use() -> None:
    put("guests/old/", 40, size=100)
    put("compiled/a.cwasm", 2, size=7)
    put("downloads/b.tar", 3)
    used = put("guests/used/", 40) / MAC_FILE
    used.write_bytes(b"x" * 5)
    os.utime(used, ns=(NOW_NS, NOW_NS))
    os.utime(used.parent, ns=(0, 0))
    found = {entry.name: entry for entry in cache_contents(frozenset({cache_dir() / "compiled/a.cwasm"}))}
    assert {name: entry.size_bytes for name, entry in found.items()} == {
        "old": 100, "a.cwasm": 7, "b.tar": 10, "used": 15,
    }  # fmt: skip
    assert [name for name, entry in found.items() if entry.current] == ["a.cwasm"]
    assert found["used"].used_ns == NOW_NS
    assert NOW_NS - found["old"].used_ns == 40 * DAY_NS


def test_what_was_not_used_for_so_long_goes_and_what_this_program_uses_stays() -> None:
    kept = put("guests/mine/", 400)
    code = put("compiled/mine.cwasm", 400)
    put("guests/old/", 31)
    put("guests/new/", 29)
    put("build/stage-1/", 31)
    put("logs/stage.log", 31)
    current = frozenset({kept, code})
    told = prune(current, NOW_NS, 30 * DAY_NS, dry_run=True)
    assert names(told.removed) == {"guests/old", "build/stage-1", "logs/stage.log"}
    assert len(cache_contents(current)) == 6
    assert names(prune(current, NOW_NS, 30 * DAY_NS, dry_run=False).removed) == names(told.removed)
    assert names(cache_contents(current)) == {"guests/mine", "guests/new", "compiled/mine.cwasm"}
    # With no time at all, what was used this hour may still be being read.
    put("guests/now/", 0.01)
    assert names(prune(current, NOW_NS, 0, dry_run=False).removed) == {"guests/new"}


def test_what_somebody_has_not_finished_stays_for_a_day() -> None:
    put("guests/.unpacking-1/", 0.5)
    put("guests/.making-2/", 2)
    put("downloads/x.part", 2)
    assert names(prune(NOBODY, NOW_NS, 0, dry_run=False).removed) == {"guests/.making-2", "downloads/x.part"}


def test_links_are_removed_themselves_and_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(1_000))
    put("guests/old/", 40)
    for place in ("guests/link", "guests/old/link", "compiled/link", "downloads/link"):
        path = cache_dir() / place
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside)
        os.utime(path, ns=(0, 0), follow_symlinks=False)
    os.utime(cache_dir() / "guests/old", ns=(0, 0))
    assert all(entry.size_bytes < 1_000 for entry in cache_contents(NOBODY))
    gone = names(prune(NOBODY, NOW_NS, 0, dry_run=False).removed)
    assert gone == {"guests/link", "guests/old", "compiled/link", "downloads/link"}
    assert (outside / "file").stat().st_size == 1_000


@contextmanager
def held(place: str) -> Iterator[None]:
    """Hold a lock of the cache's as a process at work does."""
    path = cache_dir() / place
    path.parent.mkdir(exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@pytest.mark.parametrize(
    ("lock", "busy"),
    [
        ("build/lock", {"guests", "build", "downloads", "logs"}),
        ("guests/.unpacking.lock", {"guests"}),
    ],
)
def test_where_somebody_is_at_work_nothing_is_removed(lock: str, busy: set[str]) -> None:
    old = {area: put(f"{area}/old", 400) for area in AREAS}
    with held(lock):
        pruned = prune(NOBODY, NOW_NS, DAY_NS, dry_run=False)
    assert set(pruned.busy) == busy
    assert {area for area, path in old.items() if path.exists()} == busy
    # The locks themselves are no entries, and stay.
    assert names(prune(NOBODY, NOW_NS, DAY_NS, dry_run=False).removed) == {f"{area}/old" for area in busy}
    assert (cache_dir() / lock).exists()


def test_an_empty_cache_is_empty() -> None:
    assert cache_contents(NOBODY) == []
    assert prune(NOBODY, NOW_NS, 0, dry_run=False).removed == ()
