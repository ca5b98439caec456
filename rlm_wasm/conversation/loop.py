"""The RLM loop as a pure state machine: the model writes code, sees what it did, until it finishes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from rlm_wasm.conversation.cell_report import AnsweredQuery, CellReport
from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.observations import (
    EARLY_FINAL_NOTE,
    EMPTY_FINAL_NOTE,
    NUDGE,
    UNCLOSED_NOTE,
    RanCell,
    observation_messages,
)
from rlm_wasm.conversation.prompts import ContextFacts, first_user_message, system_prompt, turn_prompt
from rlm_wasm.conversation.replies import parse_reply
from rlm_wasm.errors import BudgetExceeded, InternalError, QueryError
from rlm_wasm.limits import ObservationLimits
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import utf8_bytes

__all__ = [
    "AnsweredQuery",
    "AskModel",
    "Begin",
    "BudgetEnded",
    "Cancelled",
    "CellFinished",
    "CellReport",
    "ContextFacts",
    "Dialect",
    "Finish",
    "LoopEffect",
    "LoopInput",
    "ModelFailed",
    "ModelReplied",
    "RlmLoop",
    "RunCell",
]


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the loop."""


@dataclass(frozen=True, slots=True)
class ModelReplied:
    """The root model answered AskModel."""

    text: str


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The root model's query ended without an answer."""

    error: QueryError


@dataclass(frozen=True, slots=True)
class CellFinished:
    """The cell of RunCell is over."""

    report: CellReport


@dataclass(frozen=True, slots=True)
class BudgetEnded:
    """A budget or the deadline of the run is used up."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody outside wants the run stopped."""

    reason: str = "cancelled"


LoopInput: TypeAlias = Begin | ModelReplied | ModelFailed | CellFinished | BudgetEnded | Cancelled


@dataclass(frozen=True, slots=True)
class AskModel:
    """Ask the model; answer with ModelReplied or ModelFailed. One turn of the run's iterations.

    `observed_bytes` is how much of the messages is observations that it has not seen before.
    """

    messages: tuple[Message, ...]
    observed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunCell:
    """Run this source in the session; answer with CellFinished."""

    source: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over. `partial` is False only for an answer that the model declared final."""

    answer: str | None
    reason: str
    partial: bool


LoopEffect: TypeAlias = AskModel | RunCell | Finish


class _Phase(Enum):
    """What the loop waits for."""

    START = "begin"
    MODEL = "the model's reply"
    CELL = "the cell"
    DONE = "nothing"


class RlmLoop:
    """One question's conversation.

    `handle` returns exactly one effect, until a Finish; from then on every input is ignored, because
    a cell or a reply that was under way may still report. A finish counts at once: blocks behind it
    do not run. Anything but a declared answer ends with the best there is, marked partial: the last draft
    that was declared, in code or as text, or else what the model last said beside its code. Never the code.
    """

    def __init__(
        self,
        question: str,
        contexts: tuple[ContextFacts, ...],
        dialect: Dialect | str,
        observation: ObservationLimits,
        turns_max: int,
        *,
        lenient_fences: bool = False,
        recursive: bool = False,
        whole_length_max: int | None = None,
    ) -> None:
        self._dialect: Final = Dialect(dialect)
        self._limits: Final = observation
        self._turns_max: Final = turns_max
        self._lenient: Final = lenient_fences
        self._phase = _Phase.START
        self._history = [
            Message("system", system_prompt(self._dialect, observation, recursive=recursive)),
            Message("user", first_user_message(question, contexts, whole_length_max)),
        ]
        self._turn = 0
        self._observed_bytes = 0
        self._pending: deque[str] = deque()
        self._ran: list[RanCell] = []
        self._running = ""
        self._notes: list[str] = []
        # What the model would answer, as far as it said so, and the last that it said in prose.
        self._draft: str | None = None
        self._prose: str | None = None

    def handle(self, given: LoopInput) -> list[LoopEffect]:
        """Take one input and return what to do next; an input out of turn is an InternalError."""
        if self._phase is _Phase.DONE:
            return []
        match given, self._phase:
            case Begin(), _Phase.START:
                return [self._ask()]
            case ModelReplied(text), _Phase.MODEL:
                return [self._replied(text)]
            case ModelFailed(error), _Phase.MODEL:
                return [self._give_up(_reason_of(error))]
            case CellFinished(report), _Phase.CELL:
                return [self._cell_finished(report)]
            case ((BudgetEnded(reason) | Cancelled(reason)), _):
                return [self._give_up(reason)]
        raise InternalError(f"{type(given).__name__} came while the loop waits for {self._phase.value}")

    def _ask(self) -> LoopEffect:
        if self._turn >= self._turns_max:
            return self._give_up("iterations_exhausted")
        self._turn += 1
        self._phase = _Phase.MODEL
        # The turn line is not kept: it says what is true now.
        turn = Message("user", turn_prompt(self._turn, self._turns_max))
        observed, self._observed_bytes = self._observed_bytes, 0
        return AskModel((*self._history, turn), observed)

    def _replied(self, text: str) -> LoopEffect:
        self._history.append(Message("assistant", text))
        reply = parse_reply(text, self._lenient)
        self._prose = reply.prose or self._prose
        if reply.unclosed:
            self._notes.append(UNCLOSED_NOTE)
        if reply.blocks_dropped:
            self._notes.append(
                f"{reply.blocks_dropped} blocks beyond the first {len(reply.blocks)} did not run."
            )
        self._pending.extend(reply.blocks)
        if reply.final_var is not None:
            # The value is the guest's to give; an unknown name comes back as its exception. Called by the
            # name that is reserved for it, since the code may have given the other one away.
            self._pending.append(f"__FINAL_VAR__({reply.final_var!r})")
        elif reply.final is not None and self._dialect is not Dialect.ANSWER:
            if not reply.final:
                self._notes.append(EMPTY_FINAL_NOTE)
            elif not reply.blocks:
                return self._finish(reply.final, "final")
            else:
                # Written before the output of the code was known: often made up.
                self._draft = reply.final
                self._notes.append(EARLY_FINAL_NOTE)
        if not self._pending and not self._notes:
            self._notes.append(NUDGE)
        return self._next_cell_or_turn()

    def _cell_finished(self, report: CellReport) -> LoopEffect:
        if report.finish is not None:
            return self._finish(report.finish, "finished")
        self._draft = report.draft or self._draft
        self._ran.append(RanCell(self._running, report))
        if report.session_lost and self._pending:
            # The blocks behind it were written for a session that no longer is.
            self._notes.append(f"{len(self._pending)} later blocks of that reply did not run.")
            self._pending.clear()
        return self._next_cell_or_turn()

    def _next_cell_or_turn(self) -> LoopEffect:
        if self._pending:
            self._running = self._pending.popleft()
            self._phase = _Phase.CELL
            return RunCell(self._running)
        observations = observation_messages(self._ran, self._notes, self._dialect, self._limits)
        self._observed_bytes = sum(utf8_bytes(message.content) for message in observations)
        self._history += observations
        self._ran.clear()
        self._notes.clear()
        return self._ask()

    def _finish(self, answer: str, reason: str) -> Finish:
        self._phase = _Phase.DONE
        self._pending.clear()
        return Finish(answer, reason, partial=False)

    def _give_up(self, reason: str) -> Finish:
        self._phase = _Phase.DONE
        self._pending.clear()
        return Finish(self._draft or self._prose, reason, partial=True)


def _reason_of(error: QueryError) -> str:
    """Return why a run ends whose model could not be asked; of a budget its dimension."""
    if isinstance(error, BudgetExceeded):
        return f"budget: {error.dimension}"
    return f"model_failed: {type(error).__name__}: {error.message}"
