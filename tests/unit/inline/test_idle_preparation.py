"""A locked worker that sessions share prepares for the next ones while it is idle, and no other does.

Seen from outside, by the page faults that the kernel counts for the process: taking them ahead of need
is what preparing is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.host.worker import WorkerSession
from rlm_wasm.jail.worker_main import IDLE_MS, SHARED_FROM_SESSIONS
from rlm_wasm.protocol.cell import Cell
from tests.support.machine_grade import LAYERS_HERE
from tests.support.pool_facts import pool, until
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

# While the guest sleeps its worker has nothing to do, for many times as long as it calls idle.
_SLEEP_MS = 40 * IDLE_MS
_SLEEP = f"import time; time.sleep({_SLEEP_MS / 1000})"
# Many more than any cell here takes by itself, and fewer than one prepared session does.
_SEVERAL = 50


def faults(child: ProcessHandle) -> int:
    """How many pages the kernel has given the process, or copied for it."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])


def still(child: ProcessHandle) -> Callable[[], bool]:
    """Return whether the process has taken no page fault since it was asked last."""
    last = [-1]

    def asked() -> bool:
        last.append(faults(child))
        return last[-1] == last[-2]

    return asked


async def opened(worker: WorkerPool) -> WorkerSession:
    return await worker.session(session_limits(clock="real"), boundary_limits())


async def first_cell(worker: WorkerPool, child: ProcessHandle) -> int:
    """Return the page faults of a session from its opening to its first result."""
    before = faults(child)
    async with await opened(worker) as session:
        assert (await session.run(Cell("1+1", cell_limits()))).result == "2"
        return faults(child) - before


async def while_it_sleeps(session: WorkerSession, child: ProcessHandle) -> int:
    """Return the page faults of a worker whose only session sleeps."""
    before = faults(child)
    result = await session.run(Cell(_SLEEP, cell_limits(sleep_ms_max=_SLEEP_MS)))
    assert result.outcome == "completed"
    return faults(child) - before


async def test_a_session_that_an_idle_worker_prepared_takes_few_page_faults() -> None:
    async with pool("shared", layers=LAYERS_HERE, workers_max=1) as made, await opened(made):
        (connection,) = made.connections
        before = faults(connection.child)
        unprepared = await first_cell(made, connection.child)
        assert unprepared > 2 * _SEVERAL
        # Idle, it has begun, or is done already: counted from before the cell, whose own are known.
        await until(lambda: faults(connection.child) > before + unprepared + _SEVERAL)
        seen = [unprepared]
        while seen[-1] > unprepared // 2 and len(seen) < 100:
            # It begins a step and finishes it; when the last one is done is the machine's affair.
            await until(still(connection.child))
            seen.append(await first_cell(made, connection.child))
        assert seen[-1] <= unprepared // 2, seen


async def test_only_a_worker_that_has_had_several_sessions_prepares() -> None:
    async with pool("shared", layers=LAYERS_HERE, workers_max=1) as made, await opened(made) as session:
        (connection,) = made.connections
        await while_it_sleeps(session, connection.child)  # the first time it runs code it has not run before
        assert await while_it_sleeps(session, connection.child) < _SEVERAL
        before = faults(connection.child)
        for _ in range(SHARED_FROM_SESSIONS - 1):
            await (await opened(made)).aclose()
        # It may begin before this process has its turn again: counted from before. A session that is only
        # opened takes fewer than this.
        await until(lambda: faults(connection.child) > before + 2 * _SEVERAL)
