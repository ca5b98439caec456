"""Responses that a worker has not read yet wait for it: many at once are no fault of it."""

from __future__ import annotations

import anyio
import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.host.worker import WorkerSession
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.guest_frames import response_bytes_max
from rlm_wasm.results import CellResult
from tests.support.pool_facts import pool
from tests.support.sandbox_facts import MIB, boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
SESSIONS, ANSWER = 12, 900_000


def answer_of(size: int) -> bytes:
    return b'{"status":"completed","text":"' + b"x" * size + b'"}'


@pytest.mark.threat("T-143")
async def test_sessions_of_one_worker_that_are_answered_at_once_all_get_their_answers() -> None:
    """Together that is five times what may wait for a worker, which reads it as it comes to it."""
    asked, results = 0, []
    all_asked = anyio.Event()

    async def answer(frame: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked == SESSIONS:
            all_asked.set()
        await all_asked.wait()
        return answer_of(ANSWER)

    async def use(session: WorkerSession) -> None:
        results.append(await session.run(Cell("len(llm_query('?'))", cell_limits()), answer))

    async with pool(workers_max=1, unsent_bytes_max=2 * MIB, hang_ms_max=5_000) as made:
        limits, boundary = session_limits(), boundary_limits()
        sessions = [await made.session(limits, boundary) for _ in range(SESSIONS)]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for session in sessions:
                    tasks.start_soon(use, session)
            # What comes behind them comes in order.
            last: CellResult = await sessions[0].run(Cell("1 + 1", cell_limits()))
        assert len(made.connections) == 1
        for session in sessions:
            await session.aclose()
    assert [result.result for result in results] == [str(ANSWER)] * SESSIONS
    assert last.result == "2"


@pytest.mark.threat("T-143")
async def test_a_response_that_is_too_large_is_the_callers_error_and_the_session_lives() -> None:
    boundary = boundary_limits(response_bytes_max=10_000)
    most = response_bytes_max(boundary)

    async def answer(frame: bytes) -> bytes:
        return b" " * (most + 1)

    async with pool(workers_max=1) as made:
        async with await made.session(session_limits(), boundary) as session:
            with pytest.raises(UsageError, match="response_bytes_max"):
                await session.run(Cell("llm_query('?')", cell_limits()), answer)
            assert (await session.run(Cell("1 + 1", cell_limits()))).result == "2"
