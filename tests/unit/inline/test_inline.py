"""Sessions behind awaitable calls, on asyncio and on trio: cancelling, closing, answering, waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    UsageError,
)
from rlm_wasm.inline.worker import InlineSession, InlineWorker
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits
from tests.support.threads import no_thread

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


@asynccontextmanager
async def worker() -> AsyncIterator[InlineWorker]:
    async with InlineWorker() as made:
        yield made


async def opened(
    worker: InlineWorker, *, boundary: dict[str, int] | None = None, **limits: Any
) -> InlineSession:
    return await worker.session(session_limits(**limits), boundary_limits(**(boundary or {})))


async def run(session: InlineSession, source: str, answer: Any = None, **limits: int) -> CellResult:
    return await session.run(Cell(source, cell_limits(**limits), report_variables=True), answer)


async def echo_soon(frame: bytes) -> bytes:
    await anyio.lowlevel.checkpoint()
    return echo(frame)


async def test_cells_inputs_and_answers() -> None:
    async with worker() as made, await opened(made) as session:
        await session.load("context", "abc")
        assert (await run(session, "len(context)")).result == "3"
        assert (await run(session, "llm_query('hi')", echo_soon)).result == "'HI'"
        assert (await run(session, "1/0")).outcome == "guest_exception"


async def test_many_sessions_at_once() -> None:
    results: dict[int, str | None] = {}

    async def one(made: InlineWorker, number: int) -> None:
        async with await opened(made) as session:
            result = await run(session, f"llm_query('q{number}') + str(sum(range(10_000)))", echo_soon)
            results[number] = result.result

    async with worker() as made, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, made, number)
    assert results == {number: f"'Q{number}49995000'" for number in range(50)}


@pytest.mark.parametrize("source", ["while True: pass", "import time\ntime.sleep(0.9)"])
async def test_cancelling_the_call_ends_the_cell(source: str) -> None:
    async with worker() as made:
        session, other = await opened(made, clock="real"), await opened(made)
        with anyio.move_on_after(0.1) as scope:
            await run(session, source, fuel_max=10**15)
        assert scope.cancelled_caught
        # The guest is still when the call returns: the session is lost, the worker free.
        with pytest.raises(UsageError, match="lost"):
            await run(session, "1")
        assert (await run(other, "6 * 7")).result == "42"


async def test_cancelling_while_the_guest_waits_for_an_answer() -> None:
    started = anyio.Event()
    ended: list[str] = []

    async def never(frame: bytes) -> bytes:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("answer")
        return b""

    async with worker() as made:
        session = await opened(made)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, session, "llm_query('x')", never)
            await started.wait()
            tasks.cancel_scope.cancel()
        assert ended == ["answer"]
        assert (await run(await opened(made), "6 * 7")).result == "42"


async def test_cancelling_before_the_cell_started() -> None:
    async with worker() as made:
        session = await opened(made)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run(session, "while True: pass", fuel_max=10**15)
        assert scope.cancelled_caught
        assert (await run(await opened(made), "6 * 7")).result == "42"


async def test_cancelling_while_a_session_opens_leaves_none() -> None:
    async with worker() as made:
        first = await opened(made)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await opened(made)
        assert scope.cancelled_caught
        assert (await run(first, "6 * 7")).result == "42"
        assert made._loop.open_sessions == 1


async def test_closing_in_the_middle_of_a_cell_ends_the_call() -> None:
    async with worker() as made:
        session = await opened(made)
        asked = anyio.Event()

        async def answer(frame: bytes) -> bytes:
            asked.set()
            await anyio.sleep_forever()
            return b""

        async with anyio.create_task_group() as tasks:

            async def cell() -> None:
                with pytest.raises(UsageError, match="closed"):
                    await run(session, "while True: pass", fuel_max=10**15)
                asked.set()

            tasks.start_soon(cell)
            await anyio.wait_all_tasks_blocked()
            await session.aclose()
            await asked.wait()
        await session.aclose()


async def test_a_host_that_answers_too_late_ends_the_cell() -> None:
    async def never(frame: bytes) -> bytes:
        await anyio.sleep_forever()
        return b""

    async with worker() as made:
        session = await opened(made, boundary={"host_wait_ms_max": 50})
        result = await run(session, "llm_query('x')", never)
        assert isinstance(result.error, DeadlineExceeded)
        assert "waited for the host longer than 50 ms" in str(result.error)
        assert result.session_state is not SessionState.ALIVE


async def test_an_answer_that_refuses_the_frame_ends_the_cell() -> None:
    async def refuse(frame: bytes) -> bytes:
        raise BoundaryViolation("not a frame")

    async with worker() as made:
        result = await run(await opened(made), "llm_query('x')", refuse)
        assert (result.outcome, str(result.error)) == ("boundary_violation", "not a frame")


async def test_a_bug_in_the_answer_comes_out_and_the_worker_lives() -> None:
    async def broken(frame: bytes) -> bytes:
        raise ZeroDivisionError

    async with worker() as made:
        session = await opened(made)
        with pytest.raises(ZeroDivisionError):
            await run(session, "llm_query('x')", broken)
        assert (await run(await opened(made), "6 * 7")).result == "42"


async def test_a_guest_that_asks_where_nobody_answers_is_cancelled() -> None:
    async with worker() as made:
        assert isinstance((await run(await opened(made), "llm_query('x')")).error, CellCancelled)


async def test_a_closed_session_is_freed_whoever_keeps_an_error_of_it() -> None:
    async with worker() as made:
        before = len(os.listdir("/proc/self/fd"))
        async with await opened(made) as session:
            for source in ("kept = b'x' * (12 << 20)", "1"):  # so much that it is moved into a file
                await session.run(Cell(source, cell_limits()), checkpoint_bytes_max=64 << 20)
            with pytest.raises(UsageError) as error:
                await session.load("no identifier", "")
        assert len(os.listdir("/proc/self/fd")) == before, error


async def test_a_closed_session_and_a_closed_worker_refuse_at_once() -> None:
    async with worker() as made:
        session, left = await opened(made), await opened(made)
        await session.aclose()
        with anyio.fail_after(60):
            with pytest.raises(UsageError, match="closed"):
                await run(session, "1")
    with anyio.fail_after(60):
        with pytest.raises(UsageError, match="closed"):
            await run(left, "1")
        await left.aclose()


async def test_a_second_operation_at_once_is_refused_and_the_first_goes_on() -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def answer(frame: bytes) -> bytes:
        asked.set()
        await go_on.wait()
        return echo(frame)

    results = []
    async with worker() as made:
        session = await opened(made)
        async with anyio.create_task_group() as tasks:

            async def first() -> None:
                results.append(await run(session, "llm_query('hi')", answer))

            tasks.start_soon(first)
            await asked.wait()
            with pytest.raises(UsageError, match="busy"):
                await run(session, "1")
            go_on.set()
    assert results[0].result == "'HI'"


async def test_a_worker_can_be_used_again_after_it_was_closed() -> None:
    made = InlineWorker()
    for _ in range(2):
        async with made:
            assert (await run(await opened(made), "6 * 7")).result == "42"


@pytest.mark.threat("T-112")
async def test_a_worker_that_closes_without_a_thread_to_spare_leaves_no_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with worker() as made:
        await opened(made)
        loop = made._loop
        monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    assert not loop._thread.is_alive()
    assert loop.open_sessions == 0


async def test_a_closed_worker_makes_no_session_and_starts_no_thread() -> None:
    before = threading.active_count()
    for started in (True, False):
        async with InlineWorker() as made:
            if started:
                await (await opened(made)).aclose()
        with pytest.raises(UsageError, match="closed"):
            await opened(made)
        assert not made._started
    assert threading.active_count() <= before + 1  # the one of the event loop that closed it


async def test_a_seeded_session_repeats_itself() -> None:
    async def drawn() -> str | None:
        async with worker() as made:
            session = await opened(made, entropy="seeded", seed=5)
            return (await run(session, "import random, os\nrandom.random(), os.urandom(4)")).result

    assert await drawn() == await drawn()


class LongBytes(bytes):
    """Says to be longer than it is."""

    def __len__(self) -> int:
        return 1 << 20


class LongStr(str):
    """Says to be longer than it is."""

    def __len__(self) -> int:
        return 1 << 20


@pytest.mark.threat("T-001")
@pytest.mark.parametrize("value", [LongBytes(b"abc"), LongStr("abc"), LongStr("abé")], ids=repr)
async def test_an_input_that_lies_about_its_length_is_copied_to_its_true_end(value: Any) -> None:
    async with worker() as made, await opened(made) as session:
        await session.load("context", value)
        assert (await run(session, "len(context)")).result == "3"


async def test_a_cell_or_name_that_is_no_str_is_the_callers_error_and_the_session_lives() -> None:
    async with worker() as made, await opened(made) as session:
        with pytest.raises(UsageError, match="str"):
            await run(session, 5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="str"):
            await session.load(5, "x")  # type: ignore[arg-type]
        assert (await run(session, "1")).result == "1"


@pytest.mark.parametrize("wrong", [LongBytes(b"{}"), "text", bytearray(b"{}"), 5, {}, None], ids=repr)
async def test_an_answer_that_is_not_bytes_is_the_callers_error_and_ends_no_process(wrong: object) -> None:
    async def answer(frame: bytes) -> Any:
        return wrong

    async with worker() as made, await opened(made) as session:
        with pytest.raises(UsageError, match="give bytes"):
            await run(session, "llm_query('q')", answer)


async def test_a_cell_after_a_lost_first_cell_has_random_numbers_of_its_own() -> None:
    drawn = []
    async with worker() as made:
        for _ in range(2):
            async with await opened(made, entropy="fresh") as session:
                cell = Cell("import os; os._exit(3)", cell_limits())
                assert (
                    await session.run(cell, checkpoint_bytes_max=1 << 28)
                ).session_state is SessionState.RESTORED
                drawn.append((await run(session, "import random; random.random()")).result)
    assert drawn[0] != drawn[1]


async def test_an_interrupt_does_not_wait_for_an_answer_that_was_not_begun() -> None:
    """It comes when the guest's request is on its way and nobody works on it yet."""

    async def never(frame: bytes) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async with worker() as made, await opened(made) as session, anyio.create_task_group() as group:
        results: list[CellResult] = []
        started = anyio.Event()

        async def cell() -> None:
            started.set()  # it goes on, to where it waits for the guest, before anybody else does
            results.append(await run(session, "llm_query('?')", never))

        group.start_soon(cell)
        await started.wait()
        session.interrupt()
    assert results[0].outcome == "cancelled"


async def test_an_interrupt_between_cells_is_for_no_later_request() -> None:
    async with worker() as made, await opened(made) as session:
        await run(session, "1")
        session.interrupt()
        assert (await run(session, "llm_query('hi')", echo_soon)).result == "'HI'"
