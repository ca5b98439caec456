"""Applications that set up their process in their own way: guests run in it, or it is told why not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disturbed_host import WAYS

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

ROOT = Path(__file__).parents[3]
SECONDS_MAX = 120

# In processes of their own they could hide each other.
ALONE = ("all signals blocked", "SIGCHLD ignored", "a trace function that raises", "no descriptors")


def said(isolation: str, when: str, *ways: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.disturbed_host", isolation, when, *ways],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.threat("T-135")
@pytest.mark.parametrize("isolation", ["inline", "session"])
@pytest.mark.parametrize("when", ["before", "later"])
@pytest.mark.parametrize(
    "ways", [tuple(WAYS), *((way,) for way in ALONE)], ids=lambda ways: "+".join(ways[:2])
)
def test_guests_run_and_trap_whatever_the_application_set_up(
    isolation: str, when: str, ways: tuple[str, ...]
) -> None:
    if when == "later":
        ways = tuple(way for way in ways if not way.endswith("before"))
    found, words, complained = said(isolation, when, *ways)
    assert (found, words) == (0, "42 300 guest_trap guest_exception 1"), complained


@pytest.mark.threat("T-135")
@pytest.mark.parametrize("way", ["faulthandler", "SIGSEGV's default", "SIGFPE ignored"])
def test_who_takes_the_handler_of_a_trap_after_the_first_session_is_told_and_lives(way: str) -> None:
    found, words, complained = said("inline", "refused", way)
    assert found == 0, complained
    lines = words.splitlines()
    assert len(lines) == 4
    # A new cell, and one that waited for its host meanwhile; the session of the first is as it was.
    for line in lines[:2]:
        assert line.startswith("UsageError: ")
        assert "from the WebAssembly engine: the next trap of a guest would end this process" in line
    assert lines[2:] == ["the first session: 42", "guest_trap"]


@pytest.mark.threat("T-135")
def test_a_thread_that_blocks_the_signals_of_traps_runs_no_guest() -> None:
    found, words, complained = said("inline", "refused", "a thread that blocks")
    assert (found, words) == (
        0,
        "UsageError: this thread blocks SIGILL: the next trap of a guest would end this process\n2\n",
    ), complained


def test_no_descriptor_of_ours_gets_the_number_of_a_standard_one() -> None:
    script = (
        "import os, sys; kept = os.dup(1)\n"
        "for number in range(3): os.close(number)\n"
        "from rlm_wasm.host.zygote_launch import launch\n"
        "process, channel = launch()\n"
        "held = [os.readlink(f'/proc/self/fd/{number}') for number in range(3)]\n"
        "os.write(kept, repr((held, process.poll())).encode())\n"
        "process.kill(); process.wait(); channel.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=SECONDS_MAX)
    held, ended = ast.literal_eval(done.stdout.decode())
    assert ended is None
    # Or a file that a library opened by itself, as libffi does.
    assert all(name.startswith("/dev/null") or os.path.isfile(name) for name in held), held
