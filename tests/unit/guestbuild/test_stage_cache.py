"""Stages are made once, published whole, and made again when they are damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.stage_cache import Stage, StageCache, stage_key
from tests.unit.guestbuild.support import Watched

Make = Callable[[Path, Mapping[str, Path]], None]


def write(text: str) -> Make:
    def make(out: Path, needs: Mapping[str, Path]) -> None:
        (out / "sub").mkdir()
        below = "".join((path / "sub/file").read_text() for path in needs.values())
        (out / "sub/file").write_text(text + below)
        (out / "link").symlink_to("sub/file")

    return make


def stage(name: str, make: Make, *needs: Stage) -> Stage:
    return Stage(name, name, stage_key(name, [need.key for need in needs]), 1, needs, (), make)


def ensure(folder: Path, last: Stage) -> tuple[Path, Watched]:
    progress = Watched()
    cache = StageCache(folder, progress)
    with cache.locked():
        return cache.ensure(last), progress


def test_stages_are_made_in_order_and_only_once(tmp_path: Path) -> None:
    last = stage("second", write("b"), stage("first", write("a")))
    made, progress = ensure(tmp_path, last)
    assert (made / "sub/file").read_text() == "ba"
    assert progress.began == ["first", "second"]
    assert ensure(tmp_path, last)[1].began == []


def test_a_published_result_does_not_need_what_it_was_made_from(tmp_path: Path) -> None:
    first = stage("first", write("a"))
    last = stage("second", write("b"), first)
    ensure(tmp_path, last)
    (tmp_path / first.folder / "sub/file").unlink()
    assert ensure(tmp_path, last)[1].began == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "sub/file").write_text("x"),
        lambda folder: (folder / "sub/file").unlink(),
        lambda folder: (folder / "more").write_text("x"),
        lambda folder: (folder / "receipt.json").unlink(),
        lambda folder: (folder / "receipt.json").write_text("{"),
        lambda folder: (folder / "receipt.json").write_text("[]"),
        lambda folder: ((folder / "link").unlink(), (folder / "link").symlink_to("/etc/passwd")),
    ],
    ids=["changed", "missing", "added", "no-receipt", "bad-receipt", "other-receipt", "link-moved"],
)
def test_a_damaged_stage_is_noticed_and_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    last = stage("only", write("a"))
    folder, _ = ensure(tmp_path, last)
    damage(folder)
    again, progress = ensure(tmp_path, last)
    assert progress.began == ["only"]
    assert "damaged" in progress.notes[0]
    assert sorted(p.name for p in again.rglob("*")) == ["file", "link", "receipt.json", "sub"]
    assert (again / "link").read_text() == "a"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GuestBuildError, SystemExit])
def test_an_interrupted_stage_is_not_published_and_the_earlier_ones_stay(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    def fail(out: Path, needs: Mapping[str, Path]) -> None:
        (out / "half").write_text("x")
        raise stop("stopped")

    first = stage("first", write("a"))
    with pytest.raises(stop):
        ensure(tmp_path, stage("second", fail, first))
    assert sorted(p.name for p in tmp_path.iterdir()) == [first.folder, "lock"]
    assert ensure(tmp_path, stage("second", write("b"), first))[1].began == ["second"]


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".making-first-0123").mkdir()
    (tmp_path / ".making-first-0123/half").write_text("x")
    ensure(tmp_path, stage("first", write("a")))
    assert not list(tmp_path.glob(".making*"))


def test_two_builds_do_not_run_at_once(tmp_path: Path) -> None:
    holding, release, entered = threading.Event(), threading.Event(), threading.Event()
    alone: list[bool] = []

    def hold() -> None:
        with StageCache(tmp_path, Watched()).locked():
            holding.set()
            release.wait(10)
            alone.append(not entered.wait(0.3))

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)

    class Releasing(Watched):
        def note(self, text: str) -> None:
            super().note(text)
            release.set()

    progress = Releasing()
    with StageCache(tmp_path, progress).locked():
        entered.set()
    thread.join()
    assert alone == [True]
    assert progress.notes == ["another build is running on this cache; waiting for it"]


def test_a_full_disk_is_one_clear_error_and_nothing_is_published(tmp_path: Path) -> None:
    def fill(out: Path, needs: Mapping[str, Path]) -> None:
        with open("/dev/full", "wb") as stream:
            stream.write(b"x" * 100_000)

    with pytest.raises(GuestBuildError, match="disk is full: could not write the stage only") as full:
        ensure(tmp_path, stage("only", fill))
    assert "RLM_WASM_CACHE" in str(full.value.hint)
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_old_results_of_a_stage_are_dropped_but_not_the_one_in_use(tmp_path: Path) -> None:
    for number in range(9):
        key = stage_key("only", number)
        last = Stage("only", "", key, 1, (), (), write(str(number)))
        folder, _ = ensure(tmp_path, last)
        assert folder.is_dir()
    assert len(list(tmp_path.glob("only-*"))) == 4


def test_a_cache_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GuestBuildError, match="could not write the build cache below"):
        ensure(tmp_path / "file/cache", stage("only", write("a")))
