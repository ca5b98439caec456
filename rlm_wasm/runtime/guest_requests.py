"""Answers a guest's request frames: decode, ask the broker, encode. Who asks is known here, not told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from rlm_wasm.core.cell_report import AnsweredQuery
from rlm_wasm.core.limits import BoundaryLimits
from rlm_wasm.core.messages import Message
from rlm_wasm.core.request import Completed, Denied, Response
from rlm_wasm.core.scheduler import QueryReceived
from rlm_wasm.errors import BoundaryViolation, BudgetExceeded, DepthExceeded, QueryError
from rlm_wasm.ids import RunId
from rlm_wasm.runtime.broker import Answered, Broker
from rlm_wasm.wire.boundary import (
    Budget,
    Finish,
    LlmQuery,
    LlmQueryBatch,
    RlmQuery,
    RlmQueryBatch,
    decode_request,
    encode_batch_response,
    encode_budget_response,
    encode_finish_response,
    encode_response,
)
from rlm_wasm.worker.answers import Answerer, Reply

# A restored session's observation repeats answered queries; a flood of them is not repeated.
ANSWERED_KEPT_MAX = 64
_NO_CHILDREN = Denied(DepthExceeded("there are no child runs"))


@dataclass(slots=True)
class GuestRequests(Answerer):
    """The requests of one run's guest at one depth. `finish` is set once the guest declares an answer."""

    broker: Broker
    run_id: RunId
    depth: int
    sub_model: str
    models: frozenset[str]
    boundary: BoundaryLimits
    cell_requests_max: int
    finish: str | None = None
    answered: list[AnsweredQuery] = field(default_factory=list)
    asked: int = 0

    def begin_cell(self) -> None:
        """Forget what the last cell asked."""
        self.finish = None
        self.answered = []
        self.asked = 0

    def ask(self, frame: bytes, reply: Reply) -> None:
        """Answer a frame; one that may not be is a BoundaryViolation, which ends the cell."""
        try:
            request = decode_request(frame, self.boundary)
        except BoundaryViolation as violation:
            reply(violation)
            return
        match request:
            case LlmQuery(prompt=prompt, model=model):
                self._query((prompt,), model, lambda responses: reply(encode_response(responses[0])))
            case LlmQueryBatch(prompts=prompts, model=model):
                self._query(prompts, model, lambda responses: reply(encode_batch_response(responses)))
            case RlmQuery():
                reply(encode_response(_NO_CHILDREN))
            case RlmQueryBatch(prompts=prompts):
                reply(encode_batch_response([_NO_CHILDREN] * len(prompts)))
            case Finish(answer=answer):
                if self.finish is None:
                    self.finish = answer
                reply(encode_finish_response())
            case Budget():
                reply(encode_budget_response(self.broker.budget_view(self.run_id)))
            case _:
                assert_never(request)

    def _query(self, prompts: Sequence[str], model: str | None, answered: Answered) -> None:
        name = model or self.sub_model
        refusal = self._refusal(len(prompts), name)
        if refusal is not None:
            answered([refusal] * len(prompts))
            return
        broker, run_id, depth = self.broker, self.run_id, self.depth
        group = broker.next_request(run_id) if len(prompts) > 1 else None
        batch = [
            QueryReceived(
                run_id=run_id,
                request_id=broker.next_request(run_id),
                depth=depth,
                origin="guest",
                model=name,
                prompt_messages=(Message("user", prompt),),
                group=group,
            )
            for prompt in prompts
        ]

        def keep(responses: list[Response]) -> None:
            for prompt, response in zip(prompts, responses, strict=True):
                if isinstance(response, Completed) and len(self.answered) < ANSWERED_KEPT_MAX:
                    self.answered.append(AnsweredQuery(prompt, response.text))
            answered(responses)

        broker.ask(batch, keep)

    def _refusal(self, count: int, model: str) -> Denied | None:
        """Return why this cell may not ask `count` more queries of `model`, if it may not."""
        self.asked += count
        if self.asked > self.cell_requests_max:
            left = max(0, self.cell_requests_max - self.asked + count)
            return Denied(
                BudgetExceeded("cell.requests", requested=count, available=left, limit=self.cell_requests_max)
            )
        if model not in self.models:
            # Not a secret and not a violation: models invent model names. Never a provider's path.
            known = ", ".join(sorted(self.models))
            return Denied(QueryError(f"no model of that name may be asked; there are: {known}"))
        return None
