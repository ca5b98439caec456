"""A worker process that belongs to an attacker, answers every ping, and does not do what it owes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import GuestError, HostExhausted, WorkerLost
from rlm_wasm.host import zygote_client as zygote_client
from rlm_wasm.host.cell_accounting import FUEL_AT_ONCE_MAX, FUEL_PER_NS_MAX
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from tests.support.lying_worker import lie
from tests.support.pool_facts import pool, until
from tests.support.sandbox_facts import MIB, boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

# Only who waits for ever exceeds it.
STUCK_SECONDS = 60
EVERY_ERROR = (
    *("PolicyError", "ArtifactError", "UsageError", "InternalError", "HostExhausted", "LockdownError"),
    *("WorkerLost", "CellCancelled", "GuestTrap", "QueryError", "KeyboardInterrupt", ""),
)
SHORT = {"wall_ms_max": 600, "sleep_ms_max": 100}


@pytest.fixture(autouse=True)
def _liars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_client, "ENTRY", "tests.support.lying_worker")


@asynccontextmanager
async def lying(
    isolation: Any = "session",
    *,
    workers_max: int = 1,
    worker_memory_bytes_max: int = 2_048 * MIB,
    **told: Any,
) -> AsyncIterator[tuple[WorkerPool, ProcessSession]]:
    """A pool whose one worker lies as it was told by a session's cell."""
    limits = {"session": {"checkpoint_bytes_max": 0}, "hang_ms_max": 300, "heartbeat_ms": 30}
    with anyio.fail_after(STUCK_SECONDS):
        async with pool(
            isolation, workers_max=workers_max, worker_memory_bytes_max=worker_memory_bytes_max, **limits
        ) as made:
            session = await opened(made)
            await run(session, lie(**told), fuel_max=10**14)
            yield made, session


async def opened(made: WorkerPool) -> ProcessSession:
    return await made.session(session_limits(checkpoint_bytes_max=0), boundary_limits())


async def run(session: ProcessSession, source: str = "1 + 1", **limits: int) -> str:
    return (await session.run(Cell(source, cell_limits(**{**SHORT, **limits})))).outcome


@pytest.mark.threat("T-121")
@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("how", ["waits", "interrupts", "cancels"])
async def test_a_cell_whose_end_is_never_told_ends_with_its_worker(spin: bool, how: str) -> None:
    async with lying(mute=(), spin=spin) as (made, session):
        connection = made.connections[0]
        outcomes: list[str] = []
        waits = {"wall_ms_max": 600 if how == "waits" else 3_600_000}

        async def cell() -> None:
            outcomes.append(await run(session, lie(mute=("RunCell",), spin=spin), **waits))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cell)
            await until(lambda: connection.busy)
            if how == "interrupts":
                session.interrupt()
            elif how == "cancels":
                tasks.cancel_scope.cancel()
        lost = session.last_result
        assert lost is not None
        assert lost.outcome == "worker_lost"
        assert "it does not end" in str(lost.error)
        assert outcomes == ([] if how == "cancels" else ["worker_lost"])
        await until(connection.child.ended)


@pytest.mark.threat("T-121")
@pytest.mark.parametrize("message", ["LoadValue", "RebaseSession", "SnapshotSession"])
async def test_an_operation_whose_end_is_never_told_ends_with_its_worker(message: str) -> None:
    async with lying(mute=(message,)) as (_, session):
        operations = {
            "LoadValue": lambda: session.load("context", "x"),
            "RebaseSession": session.rebase,
            "SnapshotSession": session.snapshot,
        }
        with pytest.raises(WorkerLost, match="it does not"):
            await operations[message]()


@pytest.mark.threat("T-122")
@pytest.mark.parametrize("kind", EVERY_ERROR)
async def test_whatever_error_a_worker_names_for_a_cell_that_cell_is_lost_and_nothing_else(kind: str) -> None:
    async with lying("shared", errors={"RunCell": kind}) as (_, session):
        assert await run(session) == "worker_lost"
        assert session.last_result is not None
        assert session.last_result.session_state is not SessionState.ALIVE
        await session.aclose()


@pytest.mark.threat("T-122")
@pytest.mark.parametrize("kind", EVERY_ERROR)
async def test_whatever_error_a_worker_names_for_an_operation_it_is_one_that_a_worker_may_cause(
    kind: str,
) -> None:
    for message in ("LoadValue", "RebaseSession", "SnapshotSession"):
        async with lying(errors={message: kind}) as (_, session):
            operations = {
                "LoadValue": lambda: session.load("context", "x"),
                "RebaseSession": session.rebase,
                "SnapshotSession": session.snapshot,
            }
            with pytest.raises((GuestError, HostExhausted)):
                await operations[message]()


@pytest.mark.threat("T-122")
@pytest.mark.parametrize("kind", EVERY_ERROR)
async def test_whatever_error_a_worker_names_for_a_session_another_worker_makes_it(kind: str) -> None:
    async with lying("shared", errors={"OpenSession": kind}, workers_max=2) as (made, _):
        for _ in range(3):  # the liar is asked at most once more
            with contextlib.suppress(WorkerLost):
                assert await run(await opened(made)) == "completed"
                return
        raise AssertionError("no session is made any more")


@pytest.mark.threat("T-124")
async def test_a_worker_that_fills_what_it_is_lent_is_seen_and_ended() -> None:
    async with lying("shared", worker_memory_bytes_max=40 * MIB) as (made, session):
        (connection,) = made.connections
        before = connection.memory_bytes()
        await run(session, lie(hoard=120 * MIB))
        # On a busy machine it may have been ended by now.
        assert connection.lost is not None or connection.memory_bytes() - before >= 120 * MIB
        await until(lambda: connection.lost is not None)
        assert "more memory than a worker may" in str(connection.lost)


@pytest.mark.threat("T-124")
async def test_an_honest_session_is_counted_with_what_it_keeps_in_files_and_leaves_nothing_there() -> None:
    async with lying("shared") as (made, session):
        (connection,) = made.connections
        before = connection._lent.bytes_held
        other = await opened(made)
        await other.load("context", "x" * 20 * MIB)
        assert connection._lent.bytes_held - before < MIB  # an input is taken back when it has been read
        await other.rebase()
        assert connection._lent.bytes_held - before >= 20 * MIB
        assert await run(other, "assert context == 'x' * len(context)") == "completed"
        await other.aclose()
        assert await run(session) == "completed"  # the worker has come so far
        assert connection._lent.bytes_held - before < MIB


@pytest.mark.threat("T-123")
async def test_a_worker_cannot_charge_more_fuel_than_the_time_its_host_saw_could_buy() -> None:
    async with lying(result={"fuel_used": 10**13, "executed_ns": 10**13}) as (_, session):
        result = session.last_result
        assert result is not None
        assert result.executed_ns < STUCK_SECONDS * 10**9
        assert result.fuel_used <= FUEL_AT_ONCE_MAX + FUEL_PER_NS_MAX * result.executed_ns


@pytest.mark.threat("T-121")
async def test_a_session_that_is_never_made_ends_with_its_worker() -> None:
    async with lying("shared", mute=("OpenSession",)) as (made, _):
        with pytest.raises(WorkerLost, match="it does not make a session"):
            await opened(made)
        assert await run(await opened(made)) == "completed"


@pytest.mark.threat("T-121")
async def test_a_session_whose_close_is_never_told_loses_its_worker_and_not_its_place() -> None:
    async with lying("shared", mute=("CloseSession",)) as (made, session):
        connection = made.connections[0]
        session.abandon()
        await until(lambda: connection.lost is not None)
        assert "closed earlier" in str(connection.lost)
        assert made.sessions == 0
        assert await run(await opened(made)) == "completed"


@pytest.mark.threat("T-121")
async def test_who_shares_a_worker_with_a_liar_hears_of_its_end_and_goes_on_in_another() -> None:
    async with lying("shared", mute=()) as (made, session):
        other = await opened(made)
        assert await run(other) == "completed"
        began = time.monotonic()
        assert await run(session, lie(mute=("RunCell",))) == "worker_lost"
        assert time.monotonic() - began < STUCK_SECONDS / 2
        assert await run(other) == "worker_lost"
        assert await run(await opened(made)) == "completed"
