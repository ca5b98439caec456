"""What a session can be in the middle of when the fault comes. Each step is one operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import anyio

from rlm_wasm.errors import GuestTrap, HostExhausted, InternalError, MemoryExceeded, RlmWasmError, WorkerLost
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import Done, Report
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits

# Ends by itself after some tenths of a second: a fault that kills nobody must not keep a round waiting.
SPIN_FUEL: Final = 1_000_000_000
PRINTED: Final = 1_000_000
CHECKPOINT_BYTES: Final = 8 << 20


class Counted(ProcessSession):
    """A session that counts: operations that were begun, and ends that were reported."""

    begun = 0
    ended = 0

    async def _operate(self, command: Any, answer: Any) -> Done:
        before = self.ended
        self.begun += 1
        try:
            return await super()._operate(command, answer)
        except WorkerLost:
            if self.ended == before:
                self.begun -= 1  # refused before it was sent: that was the one response
            raise

    def _received(self, report: Report) -> None:
        self.ended += isinstance(report, Done)
        super()._received(report)


@dataclass
class Round:
    """One fault and what was under way. `strike()` lets it happen, once."""

    pool: WorkerPool
    random: Random
    strike: Callable[[ProcessSession | None], None]
    image: Any = None
    sessions: list[Counted] = field(default_factory=list)

    async def session(self, **more: Any) -> Counted:
        """Make a session; the round closes it."""
        made = await self.pool.session(session_limits(), boundary_limits(frame_bytes_max=1 << 20), **more)
        assert isinstance(made, Counted)
        self.sessions.append(made)
        return made

    async def soon(self, session: ProcessSession | None) -> None:
        """Strike in a moment: while the operation that begins now is at some point of its work."""
        await anyio.sleep(self.random.choice((0, 0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)))
        self.strike(session)


Outcome = str
Step = Callable[[Round, Counted], Awaitable[Any]]


async def run(session: Counted, source: str, answer: Any = None, **limits: int) -> str:
    """Run a cell; return its outcome. Whatever is lost is said by a typed error and by nothing else."""
    cell = Cell(source, cell_limits(stdout_bytes_max=2 * PRINTED, **limits), report_variables=True)
    result = await session.run(cell, answer, checkpoint_bytes_max=CHECKPOINT_BYTES)
    assert (result.error is None) == (result.outcome == "completed"), result
    return result.outcome


async def _meanwhile(round: Round, session: Counted, operation: Awaitable[Any]) -> Any:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(round.soon, session)
        return await operation


async def _open(round: Round, session: Counted) -> None:
    await _meanwhile(round, session, round.session())


async def _fork(round: Round, session: Counted) -> None:
    await _meanwhile(round, session, round.session(start=round.image))


async def _load(round: Round, session: Counted) -> None:
    await _meanwhile(round, session, session.load("small", "x" * 20_000))


async def _load_large(round: Round, session: Counted) -> None:
    await _meanwhile(round, session, session.load("large", "漢" * 3_000_000))


async def _cell(round: Round, session: Counted) -> str:
    return str(await _meanwhile(round, session, run(session, "1 + 1")))


async def _slice(round: Round, session: Counted) -> str:
    return str(await _meanwhile(round, session, run(session, "while True: pass", fuel_max=SPIN_FUEL)))


async def _print(round: Round, session: Counted) -> str:
    return str(await _meanwhile(round, session, run(session, f"print('x' * {PRINTED})")))


async def _restore(round: Round, session: Counted) -> str:
    return str(await _meanwhile(round, session, run(session, "import os; os._exit(1)")))


async def _rebase(round: Round, session: Counted) -> None:
    await session.load("context", "y" * 2_000_000)
    await _meanwhile(round, session, session.rebase())


async def _snapshot(round: Round, session: Counted) -> None:
    await session.load("context", "y" * 1_000_000)
    await _meanwhile(round, session, session.snapshot())


async def _interrupt(round: Round, session: Counted) -> str:
    async def both() -> None:
        await anyio.sleep(0.01)
        session.interrupt()
        await round.soon(session)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both)
        return await run(session, "while True: pass", fuel_max=SPIN_FUEL)


async def _cancel(round: Round, session: Counted) -> None:
    """The caller gives up; that must not wait for a worker that does not answer."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(round.soon, session)
        with anyio.move_on_after(round.random.random() / 50):
            await run(session, "while True: pass", fuel_max=SPIN_FUEL)


async def _waiting(round: Round, session: Counted) -> str:
    """The worker goes while the host thinks about an answer, which nobody will want."""

    async def think(frame: bytes) -> bytes:
        round.strike(session)
        await anyio.sleep(0.05)
        return echo(frame)

    return await run(session, "llm_query('hello')", think)


async def _answering(round: Round, session: Counted) -> str:
    """The answer is on its way when the fault comes. It is long: not all of it fits into the pipe."""

    async def answer(frame: bytes) -> bytes:
        round.strike(session)
        return echo(frame).replace(b"HELLO", b"H" * 600_000)

    return await run(session, "len(llm_query('hello'))", answer)


async def _batch(round: Round, session: Counted) -> str:
    async def answer(frame: bytes) -> bytes:
        await round.soon(session)
        return echo(frame)

    return await run(session, "llm_query_batched(['a', 'b', 'c']); llm_query('d')", answer)


async def _close(round: Round, session: Counted) -> None:
    await _meanwhile(round, session, session.aclose())


async def _idle(round: Round, session: Counted) -> str:
    round.strike(session)
    return await run(session, "1 + 1")


STEPS: Final[dict[str, Step]] = {
    "opening": _open, "forking": _fork, "loading": _load, "loading a large input": _load_large,
    "a cell begun": _cell, "in a slice": _slice, "printing": _print, "going back": _restore,
    "rebasing": _rebase, "imaging": _snapshot, "interrupted": _interrupt, "cancelled": _cancel,
    "waiting": _waiting, "answering": _answering, "a batch": _batch, "closing": _close, "idle": _idle,
}  # fmt: skip
# How an operation may end that the fault did not leave alone.
LOST: Final = (WorkerLost,)
# A worker that is refused memory or descriptors may also say so.
REFUSED: Final = (WorkerLost, InternalError, MemoryExceeded, HostExhausted, GuestTrap)
# What these operations come to without a fault.
PLAIN: Final = {"None", "completed", "fuel_exhausted", "cancelled", "guest_trap"}


async def outcome_of(operation: Awaitable[Any]) -> str:
    """Return how an operation ended, as a word. What is no error of ours is a bug and goes on up."""
    try:
        return str(await operation)
    except RlmWasmError as error:
        return _word(error)
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1 and isinstance(group.exceptions[0], RlmWasmError):
            return _word(group.exceptions[0])
        raise


def _word(error: RlmWasmError) -> str:
    known = isinstance(error, REFUSED)
    return type(error).__name__ if known else f"{type(error).__name__}: {error.message}"
