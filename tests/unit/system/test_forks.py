"""A host that forks: its workers end with it all the same, and its children use nothing of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.forking_host import CHILDREN

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

ROOT = Path(__file__).parents[3]
# A bound that only a hang exceeds.
SECONDS_MAX = 120


def told(how: str, isolation: str) -> list[str]:
    """Return what a forking host says; it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.forking_host", how, isolation],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0
    return done.stdout.splitlines()


@contextmanager
def killed(how: str, isolation: str) -> Iterator[list[int]]:
    """Kill a host that lives on in a fork; give the pidfds of that fork and of whatever else it named."""
    host = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking_host", how, isolation], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    pids = [int(word) for word in host.stdout.readline().split()]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        host.kill()
        host.wait()
        yield pidfds
    finally:
        host.stdout.close()
        for pidfd in pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def over(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


@pytest.mark.threat("T-133")
@pytest.mark.parametrize("isolation", ["session", "shared"])
def test_a_killed_host_takes_its_processes_with_it_also_where_a_fork_of_it_lives_on(isolation: str) -> None:
    with killed("outlived", isolation) as (fork, worker, zygote):
        assert over(worker, SECONDS_MAX)
        assert over(zygote, SECONDS_MAX)
        assert not over(fork, 0)


@pytest.mark.threat("T-133")
def test_a_process_that_waits_to_be_told_what_it_is_for_ends_with_its_host_too() -> None:
    with killed("prelaunched", "session") as (fork, waiting):
        assert over(waiting, SECONDS_MAX)
        assert not over(fork, 0)


@pytest.mark.threat("T-134")
@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_a_child_uses_nothing_of_its_parents_and_has_its_own(isolation: str) -> None:
    belongs = "belongs to the process that this one was forked from"
    assert told("inherited", isolation) == [
        "lent files: 0",
        *[f"the session {belongs}"] * 3,
        *[f"the sandbox {belongs}"] * 2,
        f"the runtime {belongs}",
        *["nothing to close"] * 3,
        "its own: 42",
        "status 0",
        "the parent's: 42",
        "the image's: 42",
    ]


@pytest.mark.threat("T-134")
@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_a_child_closes_nothing_that_its_parent_opened_after_a_sandbox_was_closed(isolation: str) -> None:
    assert told("afterwards", isolation) == ["64", "status 0"]


@pytest.mark.threat("T-134")
@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_a_fork_in_the_midst_of_guests_that_run_can_run_its_own(isolation: str) -> None:
    assert told("busy", isolation) == [str([0] * CHILDREN)]


@pytest.mark.threat("T-134")
def test_a_fork_that_could_not_wait_for_a_guest_runs_none_in_its_process_and_says_why() -> None:
    first, refusal, *rest = told("torn", "inline")
    assert (first, rest) == ("42", ["status 1", "42", "status 0"])
    assert refusal.startswith("UsageError: this process was forked from one whose thread ran a guest")
    # In a process that is not a fork it can.
    assert told("torn", "session") == ["42", "42", "status 0", "42", "status 0"]
