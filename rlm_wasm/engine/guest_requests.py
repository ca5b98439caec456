"""Answers a guest's request frames: decode, ask the broker, encode. Who asks is known here, not told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, assert_never

from rlm_wasm.conversation.observations import shown_query
from rlm_wasm.conversation.ran_cell import AnsweredQuery
from rlm_wasm.engine.broker import Broker, Refusals
from rlm_wasm.engine.request_reader import RequestReader
from rlm_wasm.errors import GuestError, QueryError
from rlm_wasm.host.answers import Answerer, Refuel, Reply
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import BoundaryLimits
from rlm_wasm.protocol.guest_frames import (
    Budget,
    Finish,
    LlmQuery,
    LlmQueryBatch,
    RlmQuery,
    RlmQueryBatch,
    ToolCall,
    ToolCallBatch,
    encode_batch_response,
    encode_budget_response,
    encode_finish_response,
    encode_response,
    encode_tool_batch_response,
    encode_tool_response,
)
from rlm_wasm.scheduler.messages import FinishReason, Message
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Response
from rlm_wasm.scheduler.scheduler import (
    ChildRequested,
    FuelWanted,
    Noted,
    QueryReceived,
    RequestAbandoned,
    Surplus,
    ToolCalled,
)
from rlm_wasm.thoughts import without_thoughts_before

# A restored session's observation repeats answered queries; a flood of them is not repeated.
ANSWERED_KEPT_MAX: Final = 64


@dataclass(slots=True, eq=False)
class _Asked:
    """One frame's requests, which are answered together: by a batch's response, or a single one's."""

    guest: GuestRequests
    prompts: Sequence[str]
    batched: bool
    reply: Reply
    numbers: tuple[RequestId, ...]
    of_tools: bool = False

    def answered(self, responses: list[Response], refusals: Refusals) -> None:
        """Hand the guest its response frame. What a model thought before it answered is no part of it."""
        responses = [
            replace(each, text=without_thoughts_before(each.text)) if isinstance(each, Completed) else each
            for each in responses
        ]
        self.guest.keep(self, responses)
        if self.of_tools and self.batched:
            self.reply(encode_tool_batch_response(responses, refusals))
        elif self.of_tools:
            self.reply(encode_tool_response(responses[0]))
        elif self.batched:
            self.reply(encode_batch_response(responses, refusals))
        else:
            self.reply(encode_response(responses[0]))


@dataclass(slots=True)
class GuestRequests(Answerer):
    """The requests of one conversation's guest. `finish` is set once the guest declares an answer."""

    broker: Broker
    run_id: RunId
    depth: int
    parent: RequestId | None
    sub_model: str
    boundary: BoundaryLimits
    decode_ms_max: int
    digests: bool = True  # whether `asked` is of use to anybody
    finish: str | None = None
    finish_is_json: bool = False
    cell: int = 0
    closed: bool = False
    # Prompt and text. Plain pairs: many cells keep many of them, and the collector passes over these.
    _kept: list[tuple[str, str]] = field(default_factory=list)
    # How many answers of the cell their cap on tokens cut off.
    cut: int = 0
    _asked: bytes = b""
    _open: _Asked | None = None
    _reader: RequestReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = RequestReader(self.boundary, self.decode_ms_max, self.broker.clock)

    @property
    def answered(self) -> tuple[AnsweredQuery, ...]:
        """The first queries of the cell that were answered."""
        return tuple(AnsweredQuery(prompt, text) for prompt, text in self._kept)

    @property
    def asked(self) -> str:
        """A digest of all that the cell asked models, in its order; empty if it asked nothing.

        What there was no room for asked nobody.
        """
        return self._asked.hex()

    def begin_cell(self, cell: int) -> None:
        """Forget what the last cell asked; `cell` is the number of the one that begins."""
        self.cell = cell
        self.finish = None
        self._kept = []
        self.cut = 0
        self._asked = b""
        self._reader.begin_cell()

    def end_cell(self) -> None:
        """Give up what the cell asked and did not wait for: it was cancelled, or interrupted."""
        self.broker.stirs(self.parent)  # also from its turn, which it may have waited for
        if self._open is None:
            return
        for number in self._open.numbers:
            self.broker.submit(RequestAbandoned(self.run_id, number))
        self._open = None

    def close(self) -> None:
        """The run ends: an answer that the guest declares from now on no longer counts."""
        self.closed = True

    def ask(self, frame: bytes, reply: Reply) -> None:
        """Answer a frame; one that no guest of ours sends is a BoundaryViolation, which ends the cell."""
        try:
            request = self._reader.read(frame)
        except GuestError as ended:  # too much of the host's time, or nothing that a guest sends
            reply(ended)
            return
        if isinstance(request, QueryError):
            # It stays between this guest and its host: the run is as it was, and there is nothing to record.
            reply(encode_response(Denied(request)))
        elif self.closed and not isinstance(request, Finish | Budget):
            # No number for it: those of other conversations must not depend on what this one still tries.
            reply(_stopped(request))
        elif isinstance(request, Budget):
            reply(encode_budget_response(self.broker.standing(self.run_id, self.parent)))
        else:
            self.broker.at_turn(self.parent, partial(self._answer, request, reply))

    def refuel(self, reply: Refuel) -> None:
        """Give the cell more fuel, as far as the run's budget has some for it."""
        self.broker.at_turn(self.parent, partial(self._refuel, reply))

    def _refuel(self, reply: Refuel) -> None:
        if self.closed:
            reply(0)
        else:
            self.broker.ask_fuel(FuelWanted(self.run_id, self.parent), reply)

    def _answer(
        self,
        request: LlmQuery | LlmQueryBatch | RlmQuery | RlmQueryBatch | ToolCall | ToolCallBatch | Finish,
        reply: Reply,
    ) -> None:
        match request:
            case LlmQuery(prompt=prompt, model=model):
                self._query((prompt,), model, reply, batched=False)
            case LlmQueryBatch(prompts=prompts, model=model):
                self._query(prompts, model, reply, batched=True)
            case RlmQuery(prompt=prompt):
                self._start((prompt,), request, reply, batched=False)
            case RlmQueryBatch(prompts=prompts):
                self._start(prompts, request, reply, batched=True)
            case ToolCall(tool=tool, arguments=arguments):
                self._call((tool,), (arguments,), reply, batched=False)
            case ToolCallBatch(tools=tools, arguments=texts):
                self._call(tools, texts, reply, batched=True)
            case Finish(answer=answer, json=is_json):
                if self.finish is None and not self.closed:
                    self.finish, self.finish_is_json = answer, is_json
                    data: dict[str, object] = {"cell": self.cell, "answer_bytes": utf8_bytes(answer)}
                    noted = Noted(self.run_id, "answer_declared", data, self.depth, self.parent)
                    self.broker.submit(noted)
                reply(encode_finish_response())
            case _:
                assert_never(request)

    def _query(self, prompts: Sequence[str], model: str | None, reply: Reply, *, batched: bool) -> None:
        broker, run_id = self.broker, self.run_id
        group, room = self._room(prompts)
        name = self.sub_model if model is None else model
        batch = [
            QueryReceived(
                run_id,
                broker.next_request(run_id),
                self.depth,
                "guest",
                name,
                (Message("user", prompt),),
                None,
                group,
                self.parent,
                self.boundary.response_bytes_max // len(prompts),
                by_size=model is None,
            )
            for prompt in prompts[:room]
        ]
        self._ask(batch, prompts, reply, batched=batched)

    def _room(self, prompts: Sequence[str]) -> tuple[RequestId | None, int]:
        """Return the number of a batch, and how many of its prompts are worth a request of their own."""
        if len(prompts) == 1:
            return None, 1
        group = self.broker.next_request(self.run_id)
        return group, self.broker.room(self.run_id, self.parent, len(prompts))

    def _start(
        self, prompts: Sequence[str], request: RlmQuery | RlmQueryBatch, reply: Reply, *, batched: bool
    ) -> None:
        broker, run_id = self.broker, self.run_id
        group, room = self._room(prompts)
        caps = {dimension: most for dimension, most in (request.budget or {}).items() if most is not None}
        batch = [
            ChildRequested(
                run_id,
                broker.next_request(run_id),
                self.depth,
                request.model,
                prompt,
                group,
                self.parent,
                caps,
                self.boundary.response_bytes_max // len(prompts),
            )
            for prompt in prompts[:room]
        ]
        self._ask(batch, prompts, reply, batched=batched)

    def _call(self, tools: Sequence[str], arguments: Sequence[str], reply: Reply, *, batched: bool) -> None:
        broker, run_id = self.broker, self.run_id
        calls = [f"{tool}: {text}" for tool, text in zip(tools, arguments, strict=True)]
        group, room = self._room(calls)
        batch = [
            ToolCalled(
                run_id,
                broker.next_request(run_id),
                self.depth,
                tool,
                text,
                group,
                self.parent,
                self.boundary.response_bytes_max // len(tools),
            )
            for tool, text in zip(tools[:room], arguments[:room], strict=True)
        ]
        self._ask(batch, calls, reply, batched=batched, of_tools=True)

    def _ask(
        self,
        batch: Sequence[QueryReceived | ChildRequested | ToolCalled],
        prompts: Sequence[str],
        reply: Reply,
        *,
        batched: bool,
        of_tools: bool = False,
    ) -> None:
        # A guest that asks again waits for nothing else: it was interrupted in what it asked before.
        self.end_cell()
        for prompt in prompts[: len(batch)] if self.digests else ():
            self._asked = hashlib.sha256(self._asked + prompt.encode("utf-8", "surrogatepass")).digest()
        numbers = tuple([each.request_id for each in batch])
        asked = self._open = _Asked(self, prompts, batched, reply, numbers, of_tools)
        surplus = None
        if (count := len(prompts) - len(batch)) > 0:
            first = self.broker.next_request(self.run_id, count)
            surplus = Surplus(first, count, self.depth, self.parent)
        self.broker.ask(self.run_id, batch, asked.answered, surplus)

    def keep(self, asked: _Asked, responses: list[Response]) -> None:
        """Take what was answered: nothing waits for it any more, and a lost session is told of it."""
        if self._open is asked:
            self._open = None
        self.cut += sum(
            isinstance(response, Completed) and response.finish is FinishReason.LENGTH
            for response in responses
        )
        # What there was no room for has no response of its own, and stands last.
        for prompt, response in zip(asked.prompts, responses, strict=False):
            if len(self._kept) >= ANSWERED_KEPT_MAX:
                break
            if isinstance(response, Completed):
                self._kept.append(shown_query(prompt, response.text))


def _stopped(
    request: LlmQuery | LlmQueryBatch | RlmQuery | RlmQueryBatch | ToolCall | ToolCallBatch,
) -> bytes:
    gone = Cancelled("the conversation was stopped")
    match request:
        case LlmQueryBatch(prompts=items) | RlmQueryBatch(prompts=items) | ToolCallBatch(tools=items):
            return encode_batch_response([], [(gone, len(items))])
    return encode_response(gone)
