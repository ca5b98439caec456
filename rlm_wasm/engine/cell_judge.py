"""The hook of a run's caller that sees each cell before it runs, and what it may say: pass, refuse, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.conversation.observations import cut_text
from rlm_wasm.errors import UsageError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.inputs import CellVerdict
from rlm_wasm.system.loop_calls import in_thread_of_its_own

_NAME_CHARS_MAX: Final = 200
_NO_REASON: Final = "no reason was given"


@dataclass(frozen=True, slots=True)
class PendingCell:
    """Code of a model that is about to run, hostile until proven otherwise, and whose it is.

    `cell` is its number in its conversation, `turn` that of the reply that it is from. `depth` is 0 for the
    root's; `parent` is the request that a child's conversation answers.
    """

    code: str
    cell: int
    turn: int
    depth: int
    parent: RequestId | None
    run_id: RunId
    tenant: str


@dataclass(frozen=True, slots=True)
class PassCell:
    """Let the cell run."""


@dataclass(frozen=True, slots=True)
class RefuseCell:
    """Let the cell not run; its model is told the reason, and goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopRun:
    """Let the cell not run and end the whole run, with the best answer there is."""

    reason: str


# What a hook says of a cell.
Verdict: TypeAlias = PassCell | RefuseCell | StopRun


class OnCell(Protocol):
    """A function that sees each cell of a run before it runs, async or not."""

    def __call__(self, cell: PendingCell, /) -> Verdict | Awaitable[Verdict]:
        """Return what is to become of it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of asking about a cell: the word, its reason, and what was wrong with a hook that failed."""

    verdict: CellVerdict
    reason: str = ""
    error: str = ""


# What a log says of a cell, by the conversation that it is of and its number there.
RecalledVerdicts: TypeAlias = Callable[[RequestId | None, int], Judgement | None]


class CellJudge:
    """Asks about the cells of one run, several at a time where it has children.

    A function that is not async is called on a thread of its own, so that it may wait. Whatever it does, a
    judgement comes of it within `ms_max`: only what it says in so many words lets a cell run. One that takes
    longer is cancelled, and left to itself if it does not mind that: it is a task of `tasks`.
    """

    def __init__(
        self,
        on_cell: OnCell | None,
        recalled: RecalledVerdicts | None,
        tasks: TaskGroup,
        *,
        is_async: bool,
        ms_max: int,
        reason_bytes_max: int,
    ) -> None:
        self._on_cell: Final = on_cell
        self._recalled: Final = recalled
        self._tasks: Final = tasks
        self._is_async: Final = is_async
        self._ms_max: Final = ms_max
        self._reason_bytes_max: Final = reason_bytes_max
        # What the hook raised first, or what is wrong with what it returned.
        self.error: BaseException | None = None

    def recalled(self, parent: RequestId | None, cell: int) -> Judgement | None:
        """Return what the log of a run that is repeated says of a cell, if it says anything."""
        return None if self._recalled is None else self._recalled(parent, cell)

    async def judge(self, cell: PendingCell) -> Judgement:
        """Ask about a cell. Raises nothing but cancellation, which ends the call too."""
        if self._on_cell is None:
            return Judgement("failed", error="the log has no verdict")
        came, scope = anyio.Event(), anyio.CancelScope()
        found: list[Judgement] = []

        async def call(on_cell: OnCell) -> None:
            with scope:
                found.append(await self._judgement(on_cell, cell, scope))
            came.set()

        self._tasks.start_soon(call, self._on_cell)
        try:
            with anyio.move_on_after(self._ms_max / 1000):
                await came.wait()
        finally:
            scope.cancel()
        return found[0] if found else Judgement("timed_out")

    async def _judgement(self, on_cell: OnCell, cell: PendingCell, scope: anyio.CancelScope) -> Judgement:
        try:
            made = (
                on_cell(cell)
                if self._is_async
                else await in_thread_of_its_own(on_cell, (cell,), {}, _nothing, "hook")
            )
            return self._read(await made if isinstance(made, Awaitable) else made)
        except anyio.get_cancelled_exc_class() as error:
            if scope.cancel_called or anyio.current_effective_deadline() == -inf:
                raise
            # Nobody here was cancelled, but something that the function waited for.
            return self._failed(error, "what it waited for was cancelled")
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - also what would end the program: it ends this run
            return self._failed(error, _type_name(error))

    def _read(self, said: object) -> Judgement:
        # By its type, and not by what it says of itself: a mock of a verdict is none.
        kind = type(said)
        if issubclass(kind, PassCell):
            return Judgement("passed")
        if isinstance(said, RefuseCell | StopRun) and issubclass(kind, RefuseCell | StopRun):
            verdict: CellVerdict = "refused" if issubclass(kind, RefuseCell) else "stopped"
            reason: object = said.reason
            if isinstance(reason, str):
                return Judgement(verdict, self._bounded(reason))
        name = _type_name(said)
        wrong = UsageError(
            f"on_cell returned a {name} that is no verdict",
            hint="return PassCell(), RefuseCell(reason) or StopRun(reason)",
        )
        return self._failed(wrong, f"{name} is no verdict")

    def _failed(self, error: BaseException, words: str) -> Judgement:
        self.error = self.error or error
        return Judgement("failed", error=_clean(words)[:_NAME_CHARS_MAX])

    def _bounded(self, reason: str) -> str:
        return cut_text(_clean(reason) or _NO_REASON, self._reason_bytes_max)


def _clean(text: str) -> str:
    """Return a text as UTF-8 has it: a log holds no lone surrogate."""
    return str.__str__(text).encode("utf-8", "replace").decode("utf-8")


def _nothing() -> None:
    """Do nothing when a call has come back: nobody counts them."""


def _type_name(thing: object) -> str:
    """Return the name of a type, whatever its metaclass says of it."""
    name: str = type.__dict__["__name__"].__get__(type(thing))
    return name
