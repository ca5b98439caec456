"""What the watchdog says of a task that no timeout reaches."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.watchdog import EXIT_STATUS, watched
from tests.support.backends import NAMES

STANDS_STILL = """
import sys
import anyio
from tests.faults.watchdog import watched
from tests.support.backends import backend_of

async def wait_for_ever():
    with anyio.CancelScope(shield=True):
        await anyio.Event().wait()

async def main():
    with anyio.move_on_after(0.01):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_ever)

name, options = backend_of(sys.argv[1])
with watched("the seed 7", lambda: 0, looks_max=2):
    anyio.run(main, backend=name, backend_options=options)
"""


@pytest.mark.parametrize("backend", NAMES)
def test_a_task_that_waits_for_ever_in_a_shielded_scope_is_named_and_the_process_ends(backend: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STANDS_STILL, backend], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == EXIT_STATUS, ended.stderr
    assert ended.stdout.startswith("stands still: the seed 7\n")
    assert "wait_for_ever" in ended.stdout


def test_what_ends_is_left_alone() -> None:
    with watched("nothing", object, looks_max=1):
        pass
