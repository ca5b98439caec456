"""`Recorder`: a run's events and transcript as the iterations and the usage that that library has of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rlm_wasm.compat.limits_met import ErrorThresholdExceededError, TokenLimitExceededError
from rlm_wasm.compat.records import (
    CodeBlock,
    ModelUsageSummary,
    REPLResult,
    RLMChatCompletion,
    RLMIteration,
    UsageSummary,
)
from rlm_wasm.events import Event
from rlm_wasm.results import CellRecord, TurnRecord

_LOG: Final = logging.getLogger("rlm_wasm.compat")
_PREVIEW_CHARS: Final = 80
_NS: Final = 1e9


@dataclass
class Callbacks:
    """What the caller wants to be told. What one of them raises is logged, and changes nothing."""

    on_iteration: Callable[[RLMIteration, int], None] = lambda iteration, number: None
    on_subcall_start: Callable[[int, str, str], None] | None = None
    on_subcall_complete: Callable[[int, str, float, str | None], None] | None = None
    on_iteration_start: Callable[[int, int], None] | None = None
    on_iteration_complete: Callable[[int, int, float], None] | None = None


@dataclass
class _Open:
    """A query or a child that is not answered yet."""

    model: str
    prompt: str
    began_ns: int
    # Of a child, by depth: its own turns.
    depth: int = 0
    turns: list[RLMIteration] = field(default_factory=list)


@dataclass
class _Turn:
    """A turn under way, with the block that its code is in."""

    number: int
    began_ns: int
    iteration: RLMIteration = field(default_factory=RLMIteration)
    is_shown: bool = False
    failed: str | None = None
    # By the request, which counts in the order in which code asked.
    calls: dict[int, RLMChatCompletion] = field(default_factory=dict)
    cell_began_ns: int = 0
    cell_ended_ns: int = 0
    declares: bool = False


class Recorder:
    """Takes the events of one run (`take`, a sink) and the steps of its root (`watch`), in their order.

    `prices`: which models have one that is known. `failure` is what a log raised, which ended the run.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        priced: Callable[[str], bool],
        *,
        tokens_max: int | None = None,
        errors_max: int | None = None,
        run_metadata: dict[str, Any] | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._priced = priced
        self._tokens_max = tokens_max
        self._errors_max = errors_max
        self._run_metadata = run_metadata
        self._usage: dict[str, ModelUsageSummary] = {}
        self._open: dict[int, _Open] = {}
        # Of queries that a child's model drives: whose they are.
        self._child_turns: dict[int, tuple[int, RLMIteration]] = {}
        self._root_query: int | None = None
        self._turn: _Turn | None = None
        self._turns = 0
        self._failed_in_a_row = 0
        self._last_reply: str | None = None
        self.failure: Exception | None = None

    # -- what there is ----------------------------------------------------------------------------

    @property
    def usage(self) -> UsageSummary:
        """What each model was asked so far, over all depths."""
        return UsageSummary(dict(self._usage))

    @property
    def last_reply(self) -> str | None:
        """What the root's model said last."""
        return self._last_reply

    @property
    def tokens(self) -> int:
        """The tokens of all models so far."""
        return sum(each.total_input_tokens + each.total_output_tokens for each in self._usage.values())

    # -- what comes in ----------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take an event. What a log raises is kept in `failure`, and ends the run."""
        handler = _HANDLERS.get(event.kind)
        if handler is None or self.failure is not None:
            return
        try:
            handler(self, event, event.data)
        except Exception as error:
            self.failure = error
            raise

    def watch(self, step: TurnRecord | CellRecord) -> None:
        """Take a step of the root.

        Raises:
            TokenLimitExceededError, ErrorThresholdExceededError: it was one too many; the run ends.
        """
        turn = self._turn
        if isinstance(step, TurnRecord):
            self._last_reply = step.reply
            if turn is not None:
                turn.iteration.response = step.reply
        elif turn is not None:
            turn.iteration.code_blocks.append(_block(turn, step))
            turn.calls, turn.cell_began_ns, turn.cell_ended_ns = {}, 0, 0
            if step.stderr:
                turn.failed = step.stderr
                self._check_errors(turn)
        if self._tokens_max is not None and self.tokens > self._tokens_max:
            raise TokenLimitExceededError(self.tokens, self._tokens_max, self._last_reply)

    def _check_errors(self, turn: _Turn) -> None:
        if self._errors_max is not None and self._failed_in_a_row + 1 >= self._errors_max:
            count = self._failed_in_a_row + 1
            raise ErrorThresholdExceededError(count, self._errors_max, turn.failed, self._last_reply)

    def _iteration_started(self, event: Event, data: dict[str, Any]) -> None:
        if event.parent is not None:
            return
        self._close(event.at_ns)
        self._turns += 1
        self._turn = _Turn(self._turns, event.at_ns)
        self._tell(self._callbacks.on_iteration_start, 0, self._turns)

    def _query_received(self, event: Event, data: dict[str, Any]) -> None:
        request, origin = int(data["request"]), data["origin"]
        texts = data.get("texts") or []
        messages = [
            {"role": role, "content": text} for role, text in zip(data.get("roles") or [], texts, strict=True)
        ]
        if origin == "guest":
            self._open[request] = _Open(data["model"], texts[-1] if texts else "", event.at_ns)
        elif event.parent is not None:
            iteration = RLMIteration(messages)
            self._child_turns[request] = (event.parent, iteration)
        elif origin == "last":
            self._close(event.at_ns)
            self._turns += 1
            self._turn = _Turn(self._turns, event.at_ns, RLMIteration(messages), is_shown=True, declares=True)
            self._root_query = request
        elif self._turn is not None and not self._turn.is_shown:
            # One for a summary comes before the turn that it is for, in one that has been shown.
            self._turn.iteration.prompt, self._turn.is_shown = messages, True
            self._root_query = request

    def _query_answered(self, event: Event, data: dict[str, Any]) -> None:
        request = int(data["request"])
        usage = self._count(data)
        text = data.get("text", "")
        if request == self._root_query and self._turn is not None:
            self._turn.iteration.response = text
        elif (child := self._child_turns.pop(request, None)) is not None:
            parent, iteration = child
            iteration.response = text
            if parent in self._open:
                self._open[parent].turns.append(iteration)
        elif (asked := self._open.pop(request, None)) is not None and event.parent is None:
            self._called(asked, text, usage, event, data)

    def _child_started(self, event: Event, data: dict[str, Any]) -> None:
        asked = _Open(data["model"], data.get("question", ""), event.at_ns, int(data["child_depth"]))
        self._open[int(data["request"])] = asked
        model = _name(asked.model)
        self._tell(self._callbacks.on_subcall_start, asked.depth, model, asked.prompt[:_PREVIEW_CHARS])

    def _child_answered(self, event: Event, data: dict[str, Any]) -> None:
        asked = self._open.pop(int(data["request"]), None)
        if asked is None:
            return
        name = _name(asked.model)
        cost = data["cost_microdollars_spent"] / 1e6 if self._priced(asked.model) else None
        used = (data["calls_spent"], data["input_tokens_spent"], data["output_tokens_spent"])
        usage = UsageSummary({name: ModelUsageSummary(*used, cost)})
        if event.parent is None:
            self._called(asked, data.get("text", ""), usage, event, data)
        seconds = (event.at_ns - asked.began_ns) / _NS
        self._tell(self._callbacks.on_subcall_complete, asked.depth, name, seconds, _failure(data))

    def _cell_started(self, event: Event, data: dict[str, Any]) -> None:
        if event.parent is None and self._turn is not None:
            self._turn.cell_began_ns = event.at_ns

    def _cell_ended(self, event: Event, data: dict[str, Any]) -> None:
        if event.parent is None and self._turn is not None:
            self._turn.cell_ended_ns = event.at_ns

    def _answer_declared(self, event: Event, data: dict[str, Any]) -> None:
        if event.parent is None and self._turn is not None:
            self._turn.declares = True

    def _run_answered(self, event: Event, data: dict[str, Any]) -> None:
        turn, answer = self._turn, data.get("answer")
        if turn is not None and (turn.declares or not data["partial"]):
            turn.iteration.final_answer = answer
            if turn.iteration.code_blocks and turn.declares:
                turn.iteration.code_blocks[-1].result.final_answer = answer
        self._close(event.at_ns)

    # -- what goes out ----------------------------------------------------------------------------

    def _close(self, at_ns: int) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        self._failed_in_a_row = 0 if turn.failed is None else self._failed_in_a_row + 1
        seconds = turn.iteration.iteration_time = (at_ns - turn.began_ns) / _NS
        self._callbacks.on_iteration(turn.iteration, turn.number)
        self._tell(self._callbacks.on_iteration_complete, 0, turn.number, seconds)

    def _called(
        self, asked: _Open, text: str, usage: UsageSummary, event: Event, data: dict[str, Any]
    ) -> None:
        if self._turn is None:
            return
        trajectory = None
        if asked.depth and self._run_metadata is not None:
            entries = [
                {"type": "iteration", "iteration": number, **each.to_dict()}
                for number, each in enumerate(asked.turns, start=1)
            ]
            metadata = {**self._run_metadata, "root_model": _name(asked.model)}
            trajectory = {"run_metadata": metadata, "iterations": entries}
        self._turn.calls[int(data["request"])] = RLMChatCompletion(
            _name(asked.model),
            asked.prompt,
            text,
            usage,
            (event.at_ns - asked.began_ns) / _NS,
            trajectory,
            _failure(data),
        )

    def _count(self, data: dict[str, Any]) -> UsageSummary:
        spec = data["model"]
        cost = data["cost_microdollars"] / 1e6 if self._priced(spec) else None
        made = ModelUsageSummary(1, data["input_tokens"], data["output_tokens"], cost)
        if data["attempts"]:
            sums = self._usage.setdefault(_name(spec), ModelUsageSummary(0, 0, 0))
            sums.total_calls += 1
            sums.total_input_tokens += made.total_input_tokens
            sums.total_output_tokens += made.total_output_tokens
            if cost is not None:
                sums.total_cost = (sums.total_cost or 0.0) + cost
        return UsageSummary({_name(spec): made})

    def _tell(self, callback: Callable[..., None] | None, *facts: object) -> None:
        if callback is None:
            return
        try:
            callback(*facts)
        except Exception:  # noqa: BLE001 - the caller's own; as in that library it ends nothing
            _LOG.exception("a callback of an RLM raised")


_HANDLERS: Final[dict[str, Callable[[Recorder, Event, dict[str, Any]], None]]] = {
    "iteration_started": Recorder._iteration_started,
    "query_received": Recorder._query_received,
    "query_answered": Recorder._query_answered,
    "child_started": Recorder._child_started,
    "child_answered": Recorder._child_answered,
    "cell_started": Recorder._cell_started,
    "cell_ended": Recorder._cell_ended,
    "answer_declared": Recorder._answer_declared,
    "run_answered": Recorder._run_answered,
}


def _block(turn: _Turn, cell: CellRecord) -> CodeBlock:
    seconds = max(0, turn.cell_ended_ns - turn.cell_began_ns) / _NS
    names = dict.fromkeys(cell.variables, "")
    calls = [turn.calls[request] for request in sorted(turn.calls)]
    return CodeBlock(cell.code, REPLResult(cell.stdout, cell.stderr, names, seconds, calls))


def _name(spec: str) -> str:
    return spec.partition(":")[2]


def _failure(data: dict[str, Any]) -> str | None:
    """Return why a query or a child has no answer, or None."""
    if data["status"] == "completed":
        return None
    words = ": ".join(filter(None, (data.get("error"), data.get("message"))))
    return words or str(data["status"])
