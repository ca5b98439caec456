"""Two lists are worked through at once, and the first that fails stops both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_host import clean_env
from rlm_wasm.guestbuild.command import BuildCommands
from rlm_wasm.guestbuild.side_by_side import side_by_side

SECONDS_MAX = 60


def nothing() -> None:
    pass


def test_both_lists_are_at_work_at_the_same_time() -> None:
    """Each waits for the other one to have begun, which one after the other could not."""
    meeting = threading.Barrier(2, timeout=SECONDS_MAX)
    side_by_side(["a"], ["b"], {"a": [], "b": []}, lambda each: meeting.wait(), nothing)


def test_what_is_needed_is_done_first_in_whichever_list_it_is() -> None:
    done: list[str] = []
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": ["c", "a"], "e": ["gone"]}
    side_by_side(["a", "c"], ["b", "d", "e"], needs, done.append, nothing)
    assert [each for each in done if each != "e"] == ["a", "b", "c", "d"]
    assert "e" in done


@pytest.mark.parametrize(("ahead", "beside"), [(["a"], []), ([], ["a"]), ([], [])])
def test_a_list_may_be_empty(ahead: list[str], beside: list[str]) -> None:
    done: list[str] = []
    side_by_side(ahead, beside, {"a": []}, done.append, nothing)
    assert done == [*ahead, *beside]


@pytest.mark.parametrize("failing", ["ahead", "beside"])
def test_the_first_that_fails_stops_the_other_and_is_what_is_raised(failing: str, tmp_path: Path) -> None:
    commands, running = BuildCommands(), threading.Event()

    def do(each: str) -> None:
        if each == failing:
            assert running.wait(SECONDS_MAX)
            raise GuestBuildError("the first")
        commands.run(
            ["/bin/sh", "-c", "echo ready; exec sleep 100"], what="the other", cwd=tmp_path, env=clean_env(),
            log=tmp_path / "log", on_line=lambda line: running.set(),
        )  # fmt: skip

    with pytest.raises(GuestBuildError, match="the first"):
        side_by_side(
            ["ahead", "ahead after"], ["beside", "beside after"],
            {"ahead": [], "beside": [], "ahead after": [], "beside after": []}, do, commands.end_all,
        )  # fmt: skip
    with pytest.raises(GuestBuildError, match="more was ended"):
        commands.run(["/bin/true"], what="more", cwd=tmp_path, env=clean_env(), log=tmp_path / "log")


def test_nothing_waits_for_what_failed() -> None:
    done: list[str] = []

    def do(each: str) -> None:
        if each == "a":
            raise GuestBuildError("it failed")
        done.append(each)

    with pytest.raises(GuestBuildError, match="it failed"):
        side_by_side(["b"], ["a"], {"a": [], "b": ["a"]}, do, nothing)
    assert done == []


PROGRAM = """
import sys, threading
from pathlib import Path
from rlm_wasm.guestbuild.build_host import clean_env
from rlm_wasm.guestbuild.command import BuildCommands
from rlm_wasm.guestbuild.side_by_side import side_by_side

folder, commands = Path(sys.argv[1]), BuildCommands()

def do(each):
    commands.run(["/bin/sh", "-c", "echo ready; exec sleep 100"], what=each, cwd=folder, env=clean_env(),
                 log=folder / each, on_line=lambda line: print(each, flush=True))

side_by_side(sys.argv[2].split(), ["beside"], {"ahead": [], "beside": []}, do, commands.end_all)
"""


@pytest.mark.parametrize("ahead", ["ahead", ""], ids=["at work", "waiting"])
def test_an_interrupt_ends_both(tmp_path: Path, ahead: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), ahead],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for _ in ["beside", *ahead.split()]:
        assert process.stdout.readline().strip() in ("ahead", "beside")
    process.send_signal(signal.SIGINT)
    # It ends long before the commands would have.
    _, errors = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
