"""Real worker processes, struck at every step: each operation ends once, soon and with a typed error.

A short part of what ``just faults`` does, with other seeds each time; one that fails names its seed.
"""

from __future__ import annotations

import os
import random
import subprocess
from typing import Any

import pytest

from tests.faults import leftovers
from tests.faults.rounds import Tally, rounds
from tests.faults.runs import runs
from tests.faults.starts import starts
from tests.faults.strikes import STRIKES
from tests.support.backends import backends

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest")]

QUICK = tuple(strike for strike in STRIKES if strike.hits != "zygote")


@pytest.fixture(params=backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each on every event loop."""
    return request.param


@pytest.fixture
def seed() -> int:
    drawn = random.SystemRandom().randrange(1 << 32)
    print(f"seed {drawn}")  # shown where the test fails
    return drawn


@pytest.mark.threat("T-060")
@pytest.mark.threat("T-061")
async def test_whatever_befalls_a_worker_every_operation_ends_once_and_nothing_is_left(seed: int) -> None:
    tally = Tally()
    await rounds(tally, seed, 14)
    assert tally.count >= 5, tally.faults
    await rounds(tally, seed + 1, 14, strikes=QUICK)
    assert tally.outcomes["worker_lost"] + tally.outcomes["WorkerLost"] >= 3, tally.outcomes


@pytest.mark.threat("T-060")
async def test_whatever_befalls_a_worker_the_books_of_every_run_balance(seed: int) -> None:
    tally = Tally()
    await runs(tally, seed, 8)
    assert tally.count >= 2, tally.faults


@pytest.mark.threat("T-111")
@pytest.mark.threat("T-112")
async def test_whatever_moment_a_start_is_given_up_or_closed_at_everybody_is_told_and_nothing_is_left(
    seed: int,
) -> None:
    tally = Tally()
    await starts(tally, seed, 12)
    assert tally.count == 12, tally.faults


def test_a_process_that_goes_while_it_is_listed_is_not_one_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    listed = {os.getpid(): [gone.pid]}
    monkeypatch.setattr(leftovers, "children_of", lambda pid: listed.get(pid, []))
    assert leftovers.descendants() == set()
