"""How long a cell in a worker process is said to have run: never longer than the host saw it run."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from rlm_wasm.errors import WorkerLost
from rlm_wasm.host.cell_accounting import FUEL_AT_ONCE_MAX, FUEL_PER_NS_MAX, CellCharge, lost_result
from rlm_wasm.limits import CellLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import Done
from tests.support.pool_facts import pool
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits


def reported(executed_ns: int) -> Done:
    return Done(result=lost_result(WorkerLost("gone"), 7, executed_ns=executed_ns))


def running(limits: CellLimits | None = None) -> CellCharge:
    """A cell that began at 1,000 ns, waited for the host from 1,300 to 2,000 and runs again."""
    cell = CellCharge(limits or cell_limits(), since_ns=1_000)
    cell.pause(1_300)
    cell.resume(2_000)
    return cell


@pytest.mark.threat("T-067")
@pytest.mark.parametrize(
    ("told_ns", "counted_ns"), [(0, 0), (799, 799), (800, 800), (801, 800), (1 << 62, 800)]
)
def test_a_worker_cannot_report_more_time_than_the_host_gave_it(told_ns: int, counted_ns: int) -> None:
    done = running().ended(reported(told_ns), 2_500)
    assert done.result is not None
    assert (done.result.executed_ns, done.result.fuel_used) == (counted_ns, 7)


@pytest.mark.threat("T-123")
def test_a_worker_cannot_report_more_fuel_than_its_time_could_buy() -> None:
    told = reported(0)
    assert told.result is not None
    done = running().ended(Done(result=told.result.revised(fuel_used=1 << 60)), 2_500)
    assert done.result is not None
    assert done.result.fuel_used == FUEL_AT_ONCE_MAX + 800 * FUEL_PER_NS_MAX


def test_a_cell_that_is_lost_is_charged_the_time_and_the_fuel_it_could_have_used() -> None:
    lost = running().lost(WorkerLost("gone"), 2_500)
    assert (lost.executed_ns, lost.fuel_used) == (800, 800 * FUEL_PER_NS_MAX)
    assert running(cell_limits(fuel_max=9)).lost(WorkerLost("gone"), 2_500).fuel_used == 9


@pytest.mark.guest
@pytest.mark.anyio
@pytest.mark.threat("T-067")
@pytest.mark.usefixtures("guest", "healthy_host")
async def test_a_cell_whose_worker_is_killed_is_charged_the_time_it_had() -> None:
    asked = anyio.Event()

    async def answer(frame: bytes) -> bytes:
        asked.set()
        return b'{"status":"completed","text":"go on"}'

    async with pool() as made:
        session = await made.session(session_limits(), boundary_limits())

        async def kill() -> None:
            await asked.wait()
            os.kill(session.process_id, signal.SIGKILL)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            cell = Cell("for i in range(10**5): pass\nllm_query('?')\nwhile True: pass", cell_limits())
            result = await session.run(cell, answer)
        assert result.outcome == "worker_lost"
        assert result.executed_ns > 0
        assert 0 < result.fuel_used <= cell_limits().fuel_max
