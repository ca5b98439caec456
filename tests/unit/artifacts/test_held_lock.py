"""A lock among processes is waited for with an end, and what keeps it from being had is one typed error."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.errors import ArtifactError


def test_who_comes_second_has_it_when_the_first_lets_go(tmp_path: Path) -> None:
    held, had = threading.Event(), []

    def second() -> None:
        held.set()
        with held_lock(tmp_path / "lock"):
            had.append("second")

    with held_lock(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        held.wait()
        had.append("first")
    thread.join()
    assert had == ["first", "second"]


@pytest.mark.parametrize("seconds_max", [None, 1_800])
def test_a_wait_is_told_once_and_ends_with_the_others_work(tmp_path: Path, seconds_max: float | None) -> None:
    told: list[str] = []
    with ExitStack() as first:

        def waiting() -> None:
            told.append("waiting")
            first.close()

        with held_lock(tmp_path / "lock", waiting=waiting):
            assert told == []
        first.enter_context(held_lock(tmp_path / "lock"))
        with held_lock(tmp_path / "lock", seconds_max=seconds_max, waiting=waiting):
            assert told == ["waiting"]


def test_one_that_nobody_lets_go_of_is_an_error_that_names_it(tmp_path: Path) -> None:
    with held_lock(tmp_path / "lock"), pytest.raises(ArtifactError, match="another process holds") as caught:
        with held_lock(tmp_path / "lock", seconds_max=0.01):
            raise AssertionError("it was had twice")
    assert str(tmp_path / "lock") in caught.value.message
    assert "for 0.01 seconds" in caught.value.message
    assert "fuser" in str(caught.value.hint)
    with held_lock(tmp_path / "lock"):
        pass


def test_a_program_that_ends_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Thread()  # as the main thread is when the interpreter waits for the others
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    with held_lock(tmp_path / "lock"), pytest.raises(ArtifactError, match="the program ends"):
        with held_lock(tmp_path / "lock"):
            raise AssertionError("it was had twice")


@pytest.mark.parametrize("way", ["link", "folder", "nowhere"])
def test_what_cannot_be_a_lock_is_a_typed_error(tmp_path: Path, way: str) -> None:
    path = tmp_path / "lock"
    if way == "link":
        path.symlink_to("lock")
    elif way == "folder":
        path.mkdir()
    else:
        path = tmp_path / "none" / "lock"
    with pytest.raises(ArtifactError, match="cannot open the lock"):
        with held_lock(path):
            raise AssertionError("there is none")
