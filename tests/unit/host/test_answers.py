"""A session answered by call-backs: at once, later, too late, twice, with an error, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import BoundaryViolation, UsageError
from rlm_wasm.host.answers import Answerer, Reply
from rlm_wasm.inline.worker import InlineSession, InlineWorker
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


class Answers(Answerer):
    """Does `how` with each frame and its reply, and keeps the replies."""

    def __init__(self, how: Callable[[bytes, Reply], None]) -> None:
        self.how = how
        self.asked = anyio.Event()
        self.replies: list[tuple[bytes, Reply]] = []

    def ask(self, frame: bytes, reply: Reply) -> None:
        self.replies.append((frame, reply))
        self.asked.set()
        self.how(frame, reply)


def at_once(frame: bytes, reply: Reply) -> None:
    reply(echo(frame))


def never(frame: bytes, reply: Reply) -> None: ...


async def opened(worker: InlineWorker) -> InlineSession:
    return await worker.session(session_limits(), boundary_limits())


async def run(session: InlineSession, source: str, answer: Any) -> CellResult:
    return await session.run(Cell(source, cell_limits(), report_variables=True), answer)


async def test_replies_come_back_at_once_or_later_each_to_its_own_frame() -> None:
    async with InlineWorker() as worker, await opened(worker) as session:
        source = "[llm_query(f'q{i}') for i in range(50)]"
        result = await run(session, source, Answers(at_once))
        assert result.result == repr([f"Q{i}" for i in range(50)])
        later = Answers(never)
        async with anyio.create_task_group() as tasks:

            async def cell() -> None:
                assert (await run(session, "llm_query('late')", later)).result == "'LATE'"

            tasks.start_soon(cell)
            await later.asked.wait()
            frame, reply = later.replies[0]
            reply(echo(frame))


async def test_an_answerer_is_an_answer_where_nobody_can_be_called_back() -> None:
    assert await Answers(at_once)(b'{"type":"llm_query","prompt":"hi"}') == echo(
        b'{"type":"llm_query","prompt":"hi"}'
    )
    with pytest.raises(BoundaryViolation):
        await Answers(lambda frame, reply: reply(BoundaryViolation("no")))(b"")


async def test_a_second_reply_and_one_to_an_earlier_cell_go_nowhere() -> None:
    def twice(frame: bytes, reply: Reply) -> None:
        reply(echo(frame))
        reply(echo(b'{"type":"llm_query","prompt":"again"}'))

    async with InlineWorker() as worker, await opened(worker) as session:
        answers = Answers(twice)
        assert (await run(session, "llm_query('a') + llm_query('b')", answers)).result == "'AB'"
        for frame, reply in answers.replies:
            reply(echo(frame))
        assert (await run(session, "llm_query('c')", Answers(at_once))).result == "'C'"


async def test_a_guest_error_as_reply_ends_the_cell() -> None:
    async with InlineWorker() as worker, await opened(worker) as session:
        refused = Answers(lambda frame, reply: reply(BoundaryViolation("not a frame")))
        result = await run(session, "llm_query('x')", refused)
        assert (result.outcome, str(result.error)) == ("boundary_violation", "not a frame")


async def test_an_interrupt_does_not_wait_for_the_reply_and_a_late_one_goes_nowhere() -> None:
    answers = Answers(never)
    async with InlineWorker() as worker, await opened(worker) as session:
        async with anyio.create_task_group() as tasks:
            results: list[CellResult] = []

            async def cell() -> None:
                results.append(await run(session, "llm_query('x')", answers))

            tasks.start_soon(cell)
            await answers.asked.wait()
            session.interrupt()
        assert results[0].outcome == "cancelled"
        assert results[0].session_state is SessionState.ALIVE
        answers.replies[0][1](echo(b'{"type":"llm_query","prompt":"late"}'))
        assert (await run(session, "llm_query('next')", Answers(at_once))).result == "'NEXT'"


async def test_cancelling_while_a_reply_is_due_ends_the_cell_and_a_late_reply_goes_nowhere() -> None:
    answers = Answers(never)
    async with InlineWorker() as worker:
        session = await opened(worker)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, session, "llm_query('x')", answers)
            await answers.asked.wait()
            tasks.cancel_scope.cancel()
        answers.replies[0][1](echo(b'{"type":"llm_query","prompt":"late"}'))
        with pytest.raises(UsageError, match="lost"):
            await run(session, "1", answers)
        assert (await run(await opened(worker), "6 * 7", None)).result == "42"
    answers.replies[0][1](echo(b'{"type":"llm_query","prompt":"later still"}'))


async def test_a_bug_in_an_answerer_comes_out_and_the_worker_lives() -> None:
    def broken(frame: bytes, reply: Reply) -> None:
        raise ZeroDivisionError

    async with InlineWorker() as worker:
        with pytest.raises(ZeroDivisionError):
            await run(await opened(worker), "llm_query('x')", Answers(broken))
        assert (await run(await opened(worker), "6 * 7", None)).result == "42"


async def test_what_is_no_exception_comes_out_of_an_answerer_too_and_no_other_session_waits_for_it() -> None:
    """In a callback of an event loop it would be told to nobody: that session waits for ever."""

    class Outcome(BaseException):
        """As a test framework raises one, and asyncio its cancellation."""

    def broken(frame: bytes, reply: Reply) -> None:
        raise Outcome

    async with InlineWorker() as worker:
        first, second = await opened(worker), await opened(worker)
        with pytest.raises(Outcome):
            with anyio.fail_after(60):
                await run(first, "llm_query('x')", Answers(broken))
        assert (await run(second, "llm_query('x')", Answers(at_once))).result == "'X'"


@pytest.mark.parametrize("wrong", ["text", bytearray(b"{}"), 5, None], ids=repr)
async def test_a_reply_that_is_not_bytes_is_the_answerers_error(wrong: Any) -> None:
    async with InlineWorker() as worker, await opened(worker) as session:
        with pytest.raises(UsageError, match="give bytes"):
            await run(session, "llm_query('q')", Answers(lambda frame, reply: reply(wrong)))
