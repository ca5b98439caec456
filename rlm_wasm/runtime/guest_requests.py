"""Answers a guest's request frames: decode, ask the broker, encode. Who asks is known here, not told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from rlm_wasm.core.cell_report import AnsweredQuery
from rlm_wasm.core.limits import BoundaryLimits
from rlm_wasm.core.messages import Message
from rlm_wasm.core.pricing import utf8_bytes
from rlm_wasm.core.request import Completed, Denied, Response
from rlm_wasm.core.scheduler import Noted, QueryReceived
from rlm_wasm.errors import BudgetExceeded, QueryError
from rlm_wasm.ids import RunId
from rlm_wasm.runtime.broker import Broker
from rlm_wasm.wire.boundary import (
    Budget,
    Finish,
    LlmQuery,
    LlmQueryBatch,
    decode_request,
    encode_batch_response,
    encode_budget_response,
    encode_finish_response,
    encode_response,
)

# A restored session's observation repeats answered queries; a flood of them is not repeated.
ANSWERED_KEPT_MAX = 64


@dataclass(slots=True)
class GuestRequests:
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
    cell: int = 0

    def begin_cell(self, cell: int) -> None:
        """Forget what the last cell asked; `cell` is the number of the one that begins."""
        self.cell = cell
        self.finish = None
        self.answered = []
        self.asked = 0

    async def answer(self, frame: bytes) -> bytes:
        """Return the response frame. Raises BoundaryViolation, which ends the cell, and nothing else."""
        request = decode_request(frame, self.boundary)
        match request:
            case LlmQuery(prompt=prompt, model=model):
                (response,) = await self._ask([prompt], model)
                return encode_response(response)
            case LlmQueryBatch(prompts=prompts, model=model):
                return encode_batch_response(await self._ask(list(prompts), model))
            case Finish(answer=answer):
                if self.finish is None:
                    self.finish = answer
                    data: dict[str, object] = {"cell": self.cell, "answer_bytes": utf8_bytes(answer)}
                    self.broker.submit(Noted(self.run_id, "answer_declared", data))
                return encode_finish_response()
            case Budget():
                return encode_budget_response(self.broker.budget_view(self.run_id))
            case _:
                assert_never(request)

    async def _ask(self, prompts: list[str], model: str | None) -> list[Response]:
        self.asked += len(prompts)
        if self.asked > self.cell_requests_max:
            left = max(0, self.cell_requests_max - self.asked + len(prompts))
            too_many = BudgetExceeded(
                "cell.requests", requested=len(prompts), available=left, limit=self.cell_requests_max
            )
            return [Denied(too_many)] * len(prompts)
        name = model or self.sub_model
        if name not in self.models:
            # Not a secret and not a violation: models invent model names. Never a provider's path.
            known = ", ".join(sorted(self.models))
            return [Denied(QueryError(f"no model of that name may be asked; there are: {known}"))] * len(
                prompts
            )
        group = self.broker.next_request(self.run_id) if len(prompts) > 1 else None
        batch = [
            QueryReceived(
                run_id=self.run_id,
                request_id=self.broker.next_request(self.run_id),
                depth=self.depth,
                origin="guest",
                model=name,
                prompt_messages=(Message("user", prompt),),
                group=group,
            )
            for prompt in prompts
        ]
        responses = await self.broker.query_all(batch)
        for prompt, response in zip(prompts, responses, strict=True):
            if isinstance(response, Completed) and len(self.answered) < ANSWERED_KEPT_MAX:
                self.answered.append(AnsweredQuery(prompt, response.text))
        return responses
