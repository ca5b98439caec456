"""The interpreter ends while guests run: its exit status and its last words are the application's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ending_host import WORDS

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

HOST = Path(__file__).parents[2] / "support" / "ending_host.py"


def ended(isolation: str, how: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, HOST, isolation, how], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.threat("T-131")
@pytest.mark.parametrize("isolation", ["inline", "session"])
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("exit", 3),
        ("three", 3),
        ("starting", 3),
        ("daemon", 3),
        ("hook asyncio", 3),
        ("hook trio", 3),
        ("error", 1),
    ],
)
def test_no_guest_runs_when_the_interpreter_is_taken_down(isolation: str, how: str, status: int) -> None:
    found, said, complained = ended(isolation, how)
    assert (found, said) == (status, f"{WORDS}; threads that run guests: 0"), complained
    assert "fatal" not in complained


@pytest.mark.threat("T-131")
@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_an_end_that_nothing_may_follow_is_one(isolation: str) -> None:
    assert ended(isolation, "_exit") == (5, "", "")
