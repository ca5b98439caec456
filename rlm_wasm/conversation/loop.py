"""The RLM loop as a pure state machine: the model writes code, sees what it did, until it finishes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from rlm_wasm.conversation.compaction import SUMMARY_BYTES_MAX, SUMMARY_PROMPT, Compaction
from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.history_room import HistoryRoom
from rlm_wasm.conversation.observations import (
    CUT_NOTE,
    EARLY_FINAL_NOTE,
    EMPTY_FINAL_NOTE,
    NO_TEXT_NOTE,
    NUDGE,
    THINKS_ON_NOTE,
    UNCLOSED_NOTE,
    cut_text,
    observation_messages,
    repeated_note,
    with_note,
)
from rlm_wasm.conversation.prompts import (
    ContextFacts,
    first_user_message,
    last_prompt,
    system_prompt,
    turn_prompt,
)
from rlm_wasm.conversation.ran_cell import AnsweredQuery, RanCell
from rlm_wasm.conversation.repeats import Repeats
from rlm_wasm.conversation.replies import parse_reply
from rlm_wasm.conversation.typed_answer import AnswerForm, FittingAnswer, UnfitAnswer, unfit_note
from rlm_wasm.errors import BudgetExceeded, CellRefused, InternalError, NoText, QueryError, WindowExceeded
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.limits import ObservationLimits
from rlm_wasm.outcomes import Outcome, SessionState, StopReason, budget_key
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.messages import FinishReason, Message
from rlm_wasm.scheduler.pricing import utf8_bytes

__all__ = [
    "AnswerChecked",
    "AnsweredQuery",
    "AskLast",
    "AskModel",
    "AskSummary",
    "Begin",
    "BlockJudged",
    "CellFinished",
    "CheckAnswer",
    "Conclusion",
    "ContextFacts",
    "Dialect",
    "JudgeBlock",
    "LoopEffect",
    "LoopInput",
    "ModelFailed",
    "ModelReplied",
    "MustStop",
    "RlmLoop",
    "RunBlock",
]


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the loop."""


@dataclass(frozen=True, slots=True)
class ModelReplied:
    """The root model answered AskModel. `finish` is why its text ends there, if the provider said so.

    `input_tokens` is what the provider counted of the messages, `window_tokens` what the model is known
    to hold.
    """

    text: str
    finish: FinishReason | None = None
    input_tokens: int | None = None
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The root model's query ended without an answer."""

    error: QueryError


@dataclass(frozen=True, slots=True)
class BlockJudged:
    """The block of JudgeBlock may run, or it was refused."""

    refused: CellRefused | None = None


@dataclass(frozen=True, slots=True)
class CellFinished:
    """The cell of RunBlock is over. `answer` is the one that its code declared, if it did.

    `answer_is_json`: as a value, whose JSON it is. `asked` is a digest of all that it asked models.
    """

    result: CellResult
    answer: str | None = None
    answered: tuple[AnsweredQuery, ...] = ()
    answers_cut: int = 0
    asked: str = ""
    answer_is_json: bool = False


@dataclass(frozen=True, slots=True)
class AnswerChecked:
    """What came of CheckAnswer."""

    found: FittingAnswer | UnfitAnswer


@dataclass(frozen=True, slots=True)
class MustStop:
    """A budget or the deadline is used up, or somebody outside wants the run stopped."""

    stop: StopReason


LoopInput: TypeAlias = (
    Begin | ModelReplied | ModelFailed | BlockJudged | CellFinished | AnswerChecked | MustStop
)


@dataclass(frozen=True, slots=True)
class AskModel:
    """Ask the model; answer with ModelReplied or ModelFailed. One turn of the run's iterations.

    `observed_bytes` is how much of the messages is observations that it has not seen before. `compacted` is
    what the history lost since the last time.
    """

    messages: tuple[Message, ...]
    observed_bytes: int = 0
    compacted: Compaction | None = None


@dataclass(frozen=True, slots=True)
class AskSummary:
    """Ask the model what of the earlier turns matters; answer with ModelReplied or ModelFailed. No turn.

    `observed_bytes` is as in AskModel: what it sees here it has seen.
    """

    messages: tuple[Message, ...]
    observed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class JudgeBlock:
    """Ask whether this source may run; answer with BlockJudged."""

    source: str


@dataclass(frozen=True, slots=True)
class RunBlock:
    """Run this source in the session; answer with CellFinished."""

    source: str


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """Check whether this answer is what was wanted; answer with AnswerChecked."""

    text: str
    form: AnswerForm


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The conversation is over.

    Of a typed answer, `value` is what it is and `checked` says that it is that; `problems` are those of the
    answer that was declared last and is not what was wanted.
    """

    answer: str | None
    stop: StopReason
    value: Any = None
    checked: bool = False
    problems: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether the answer is not one that the model declared final."""
        return not self.stop.declared


@dataclass(frozen=True, slots=True)
class AskLast:
    """Ask the model once more, for the best answer it has, of a run that `stop` ends.

    Answer with ModelReplied or ModelFailed. `observed_bytes` and `compacted` are as in AskModel.
    """

    messages: tuple[Message, ...]
    stop: StopReason
    observed_bytes: int = 0
    compacted: Compaction | None = None


LoopEffect: TypeAlias = AskModel | AskSummary | AskLast | JudgeBlock | RunBlock | CheckAnswer | Conclusion


OBSERVATION_KEY: Final = budget_key("observation_bytes")
# How often in a row a model may answer without a word: each time took all attempts that the policy allows.
_SILENT_MAX: Final = 3


class _Phase(Enum):
    """What the loop waits for."""

    START = "begin"
    MODEL = "the model's reply"
    SUMMARY = "the model's summary"
    JUDGE = "whether the block may run"
    CELL = "the cell"
    CHECK = "whether the answer is what was wanted"
    LAST = "the model's last reply"
    DONE = "nothing"


class RlmLoop:
    """One question's conversation.

    `handle` returns exactly one effect, until a Conclusion; from then on every input is ignored, because
    a cell or a reply that was under way may still report. A finish counts at once: blocks behind it
    do not run. Anything but a declared answer ends with the best there is, marked partial: the last draft
    that was declared, in code or as text, or else what the model last said beside its code. Never the code.
    With `asks_last`, a limit of the run's own ends it with one more question where there is no draft: for the
    best answer from what is known. With `judges` each block is asked about before it runs; of one that is
    refused the model is told why, and the blocks behind it do not run either. With a `schema` the model is
    told it, and each answer that is declared is checked: one that does not fit ends nothing, the model is
    told where it does not, and the blocks behind it do not run. A history that nears its model's window
    (`compact_percent` of it), or that its endpoint refuses as too long, is made shorter, and the model asked
    again.
    """

    def __init__(
        self,
        question: str,
        contexts: tuple[ContextFacts, ...],
        dialect: Dialect | str,
        observation: ObservationLimits,
        turns_max: int,
        *,
        turns_key: str = "run.turns_max",
        lenient_fences: bool = False,
        recursive: bool = False,
        virtual_clock: bool = False,
        packages: Sequence[str] = (),
        guidance: Guidance = NO_GUIDANCE,
        tools: Sequence[str] = (),
        whole_length_max: int | None = None,
        asks_last: bool = False,
        repeats_max: int = 0,
        window_tokens: int | None = None,
        compact_percent: int = 0,
        summaries_max: int = 0,
        judges: bool = False,
        schema: str = "",
    ) -> None:
        self._typed: Final = bool(schema)
        self._declared: tuple[str, StopReason] | None = None  # what is checked now
        self._problems: tuple[str, ...] = ()  # of what was checked last
        self._room: Final = HistoryRoom(window_tokens, compact_percent, summaries_max)
        self._compacted: Compaction | None = None  # of what no event tells yet
        self._repeats: Final = Repeats(repeats_max)
        self._asks_last: Final = asks_last
        self._judges: Final = judges
        self._stop: StopReason | None = None  # why the last question is asked
        self._dialect: Final = Dialect(dialect)
        self._limits: Final = observation
        self._turns_max: Final = turns_max
        self._turns_key: Final = turns_key
        self._lenient: Final = lenient_fences
        self._phase = _Phase.START
        self._history = [
            Message(
                "system",
                system_prompt(
                    self._dialect,
                    observation,
                    recursive=recursive,
                    virtual_clock=virtual_clock,
                    packages=packages,
                    guidance=guidance,
                    tools=tools,
                    schema=schema,
                ),
            ),
            Message("user", first_user_message(question, contexts, whole_length_max)),
        ]
        self._turn = 0
        self._observed_bytes = 0
        self._unread = 0  # how many of the last messages it has not answered yet
        self._silent = 0  # how often in a row it answered without a word
        self._said = ""  # its last reply
        self._pending: deque[str] = deque()
        self._ran: list[RanCell] = []
        self._asked: list[str] = []  # what each of them asked models, as a digest
        self._running = ""
        self._notes: list[str] = []
        # What the model would answer, as far as it said so, and the last that it said in prose.
        self._draft: str | None = None
        self._prose: str | None = None
        # What the session holds after the last cell.
        self._variables: tuple[str, ...] = ()

    def handle(self, given: LoopInput) -> list[LoopEffect]:
        """Take one input and return what to do next; an input out of turn is an InternalError."""
        if self._phase is _Phase.DONE:
            return []
        match given, self._phase:
            case Begin(), _Phase.START:
                return [self._ask()]
            case ModelReplied(text, finish), _Phase.MODEL:
                self._room.answered(given.input_tokens, given.window_tokens)
                return [self._replied(text, finish)]
            case ModelReplied(text), _Phase.SUMMARY:
                return [self._summarised(text)]
            case ModelFailed(), _Phase.SUMMARY:
                return [self._summarised(None)]
            case ModelFailed(error), _Phase.MODEL:
                return [self._failed(error)]
            case BlockJudged(refused), _Phase.JUDGE:
                return [self._judged(refused)]
            case CellFinished(), _Phase.CELL:
                return [self._cell_finished(given)]
            case AnswerChecked(found), _Phase.CHECK:
                return [self._checked(found)]
            case ModelReplied(text), _Phase.LAST:
                return [self._replied_last(text)]
            case ModelFailed() | MustStop(), _Phase.LAST:
                return [self._end_with_the_best()]
            case MustStop(stop), _:
                return [self._give_up(stop)]
        raise InternalError(f"{type(given).__name__} came while the loop waits for {self._phase.value}")

    def _ask(self) -> LoopEffect:
        if self._turn >= self._turns_max:
            return self._give_up(StopReason.iterations(self._turns_max, self._turns_key))
        if self._room.is_full(self._history):
            shorter, enough = self._room.shortened(self._history, self._unread)
            if not enough and self._room.may_summarise(shorter):
                self._phase = _Phase.SUMMARY
                messages = (*shorter, Message("user", SUMMARY_PROMPT))
                self._room.sends(messages)
                return AskSummary(messages, self._take_observed())
            self._make_shorter()
        self._turn += 1
        self._phase = _Phase.MODEL
        # The turn line is not kept: it says what is true now.
        messages = (*self._history, Message("user", turn_prompt(self._turn, self._turns_max)))
        self._room.sends(messages)
        compacted, self._compacted = self._compacted, None
        return AskModel(messages, self._take_observed(), compacted)

    def _take_observed(self) -> int:
        """Return how much of the observations is shown now for the first time."""
        observed, self._observed_bytes = self._observed_bytes, 0
        return observed

    def _make_shorter(self, summary: str | None = None) -> bool:
        """Leave out of the history what there is no room for; return whether it is shorter."""
        shorter, enough = self._room.shortened(self._history, self._unread)
        if not enough:
            shorter = self._room.without_turns(shorter, self._unread, summary)
        summarised = summary is not None and not enough
        lost = self._room.compaction(self._history, shorter, summarised=summarised)
        if lost is None:
            return False
        self._history = shorter
        self._compacted = lost if self._compacted is None else self._compacted.followed_by(lost)
        return True

    def _summarised(self, text: str | None) -> LoopEffect:
        """Put what the model wrote down in the place of its earlier turns, and go on."""
        if text is not None:
            text = cut_text(parse_reply(text, self._lenient).prose or text, SUMMARY_BYTES_MAX)
        self._make_shorter(text)
        return self._ask()

    def _replied(self, text: str, finish: FinishReason | None) -> LoopEffect:
        self._history.append(Message("assistant", text))
        self._said = text
        reply = parse_reply(text, self._lenient, ended=finish is FinishReason.STOP)
        self._silent = self._unread = 0
        self._prose = reply.prose or self._prose
        if finish is FinishReason.LENGTH:
            self._notes.append(CUT_NOTE)
        if reply.unclosed:
            self._notes.append(UNCLOSED_NOTE)
        elif reply.thinks_on:
            self._notes.append(THINKS_ON_NOTE)
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
            elif not reply.blocks and not reply.unclosed:
                return self._declare(reply.final, AnswerForm.WRITTEN, StopReason.final())
            else:
                # Written before the output of the code was known: often made up.
                self._draft = reply.final
                self._notes.append(EARLY_FINAL_NOTE)
        elif reply.final:
            self._prose = reply.final
        if not self._pending and not self._notes:
            self._notes.append(NUDGE)
        return self._next_cell_or_turn()

    def _failed(self, error: QueryError) -> LoopEffect:
        if isinstance(error, WindowExceeded) and self._room.refused(error) and self._make_shorter():
            return self._ask()
        if not isinstance(error, NoText) or self._silent >= _SILENT_MAX:
            return self._give_up(_reason_of(error))
        self._silent += 1
        self._notes.append(NO_TEXT_NOTE)
        self._observe(self._seen())
        return self._ask()

    def _cell_finished(self, given: CellFinished) -> LoopEffect:
        if given.answer is not None and not self._typed:
            return self._conclude(given.answer, StopReason.finished())
        result = given.result
        alive = result.session_state is SessionState.ALIVE
        if result.session_state is SessionState.LOST:
            self._variables = ()
        elif alive and result.outcome is not Outcome.SOURCE_EXCEEDED:  # which the session never saw
            self._variables = result.variables
        self._draft = result.draft or self._draft
        variables = result.variables if alive else self._variables
        self._ran.append(RanCell(self._running, result, variables, given.answered, given.answers_cut))
        self._asked.append(given.asked)
        if not alive:
            # The blocks behind it were written for a session that no longer is.
            self._leave_out_later_blocks()
        if given.answer is not None:
            form = AnswerForm.JSON if given.answer_is_json else AnswerForm.TEXT
            return self._declare(given.answer, form, StopReason.finished())
        return self._next_cell_or_turn()

    def _declare(self, answer: str, form: AnswerForm, stop: StopReason) -> LoopEffect:
        """End with this answer, once it is known to be what was wanted."""
        if not self._typed:
            return self._conclude(answer, stop)
        self._phase = _Phase.CHECK
        self._declared = answer, stop
        return CheckAnswer(answer, form)

    def _checked(self, found: FittingAnswer | UnfitAnswer) -> LoopEffect:
        if self._declared is None:
            raise InternalError("an answer was checked that nobody declared")
        answer, stop = self._declared
        if isinstance(found, FittingAnswer):
            return self._conclude(answer, stop, found)
        self._problems, self._draft = found.problems, answer
        # The blocks behind it were written for a run that is over by then.
        self._leave_out_later_blocks()
        self._notes.append(unfit_note(found.problems))
        return self._next_cell_or_turn()

    def _judged(self, refused: CellRefused | None) -> LoopEffect:
        if refused is None:
            self._phase = _Phase.CELL
            return RunBlock(self._running)
        self._ran.append(RanCell(self._running, CellResult(refused), self._variables))
        self._asked.append("")
        # The blocks behind it were written for a session in which it ran.
        self._leave_out_later_blocks()
        return self._next_cell_or_turn()

    def _leave_out_later_blocks(self) -> None:
        if self._pending:
            self._notes.append(f"{len(self._pending)} later blocks of that reply did not run.")
            self._pending.clear()

    def _next_cell_or_turn(self) -> LoopEffect:
        if self._pending:
            self._running = self._pending.popleft()
            if self._judges:
                self._phase = _Phase.JUDGE
                return JudgeBlock(self._running)
            self._phase = _Phase.CELL
            return RunBlock(self._running)
        repeats, seen = self._repeats, self._seen()
        if repeats.most:
            repeats.turn(self._done_in_turn(seen))
        if repeats.too_many:
            return self._give_up(StopReason.no_progress(repeats.most))
        if repeats.must_be_told:
            left = repeats.most - repeats.times
            seen = with_note(seen, repeated_note(repeats.times + 1, left))
        self._observe(seen)
        return self._ask()

    def _done_in_turn(self, seen: Sequence[Message]) -> tuple[str, ...]:
        """Return a turn's code, or its words where it has none, what that asked models, and what it showed.

        Code that asks for the next piece each time gets further, though it prints nothing.
        """
        code = [cell.source for cell in self._ran] or [self._said]
        return (*code, *self._asked, "", *(message.content for message in seen))

    def _seen(self) -> tuple[Message, ...]:
        """Return what the model is to see of the cells that ran, and the notes for it."""
        return observation_messages(self._ran, self._notes, self._dialect, self._limits)

    def _observe(self, observations: Sequence[Message]) -> None:
        """Write down what the model is to see."""
        self._observed_bytes += sum(utf8_bytes(message.content) for message in observations)
        self._unread += len(observations)
        self._history += observations
        self._ran.clear()
        self._asked.clear()
        self._notes.clear()

    def _conclude(
        self, answer: str | None, stop: StopReason, fitting: FittingAnswer | None = None
    ) -> Conclusion:
        self._phase = _Phase.DONE
        self._pending.clear()
        if fitting is None:
            return Conclusion(answer, stop, problems=self._problems)
        return Conclusion(answer, stop, fitting.value, checked=True)

    def _give_up(self, stop: StopReason) -> LoopEffect:
        """End with the best there is, and where a limit ends it, ask for that if nothing says it yet."""
        self._stop = stop
        has_replied = any(message.role == "assistant" for message in self._history)
        if not (self._asks_last and stop.leaves_a_question and has_replied) or self._draft is not None:
            return self._end_with_the_best()
        self._phase = _Phase.LAST
        self._pending.clear()
        if stop.key == OBSERVATION_KEY:  # what there is no room for is not shown
            del self._history[len(self._history) - self._unread :]
            self._observed_bytes = 0
        else:
            self._observe(self._seen())
        if self._room.is_full(self._history):
            self._make_shorter()
        question = Message("user", last_prompt(str(stop)))
        return AskLast((*self._history, question), stop, self._observed_bytes, self._compacted)

    def _replied_last(self, text: str) -> Conclusion:
        reply = parse_reply(text, self._lenient)
        self._prose = reply.final or reply.prose or self._prose
        return self._end_with_the_best()

    def _end_with_the_best(self) -> Conclusion:
        if self._stop is None:
            raise InternalError("a conversation ends early without a reason")
        return self._conclude(self._draft or self._prose, self._stop)


def _reason_of(error: QueryError) -> StopReason:
    """Return why a run ends whose model could not be asked; of a budget its dimension."""
    if isinstance(error, BudgetExceeded):
        return StopReason.budget(error.dimension, error.limit)
    return StopReason.model_failed(type(error).__name__, error.message)
