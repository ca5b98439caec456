"""`ModelQuery`: what a session's code asks a model, for a function of the caller's that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

import anyio
import anyio.to_thread

from rlm_wasm.api.arguments import is_async
from rlm_wasm.api.cell_requests import CellRequests
from rlm_wasm.errors import LimitExceeded, QueryError, UsageError
from rlm_wasm.limits import BoundaryLimits
from rlm_wasm.protocol.guest_frames import (
    LlmQuery,
    LlmQueryBatch,
    RlmQuery,
    RlmQueryBatch,
    encode_batch_response,
    encode_response,
    text_bytes,
)
from rlm_wasm.scheduler.request import Completed, Denied, Failed, Response

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """One prompt of a session's code: hostile text, within `boundary.prompt_bytes_max`.

    `model` is the name that the code gave, None if it gave none. `kind` is the function that it called:
    "rlm_query" wants a run of its own, of which `budget` caps dimensions by name. `index` is its place among
    the `count` prompts that were asked at once.
    """

    prompt: str
    model: str | None = None
    kind: Literal["llm_query", "rlm_query"] = "llm_query"
    index: int = 0
    count: int = 1
    budget: Mapping[str, int] = field(default_factory=lambda: _NOTHING)


class OnQuery(Protocol):
    """A function that answers one `ModelQuery`, async or not.

    A QueryError that it raises is raised in the guest, a GuestError ends the cell, and anything else comes
    out of `SandboxSession.exec`.
    """

    def __call__(self, query: ModelQuery, /) -> str | Awaitable[str]:
        """Return the answer."""


class QueryHook:
    """Answers the queries of one cell by a function of the caller's; a batch side by side, in order.

    A function that is not async is called on a thread, so that it may wait. `parallel_max` calls are under
    way at a time.
    """

    def __init__(
        self, on_query: OnQuery, requests: CellRequests, boundary: BoundaryLimits, *, parallel_max: int
    ) -> None:
        self._on_query = on_query
        self._requests = requests
        self._boundary = boundary
        self._limiter = anyio.CapacityLimiter(parallel_max)
        self._is_async = is_async(on_query)

    async def answer(self, request: LlmQuery | LlmQueryBatch | RlmQuery | RlmQueryBatch) -> bytes:
        """Return the response frame. Raises the GuestError that ends the cell, and what is the caller's."""
        match request:
            case LlmQuery(prompt=prompt, model=model):
                return encode_response((await self._answers([ModelQuery(prompt, model)]))[0])
            case RlmQuery(prompt=prompt, model=model):
                query = ModelQuery(prompt, model, "rlm_query", budget=_caps(request))
                return encode_response((await self._answers([query]))[0])
            case LlmQueryBatch(prompts=prompts, model=model):
                count = len(prompts)
                queries = [
                    ModelQuery(prompt, model, "llm_query", at, count) for at, prompt in enumerate(prompts)
                ]
            case RlmQueryBatch(prompts=prompts, model=model):
                count, caps = len(prompts), _caps(request)
                queries = [
                    ModelQuery(prompt, model, "rlm_query", at, count, caps)
                    for at, prompt in enumerate(prompts)
                ]
        return encode_batch_response(await self._answers(queries))

    async def _answers(self, queries: Sequence[ModelQuery]) -> list[Response]:
        """Return what became of each. Raises what one of the calls raised that is nothing for the guest."""
        bytes_max = self._boundary.response_bytes_max // len(queries)

        async def answer(query: ModelQuery) -> Response:
            async with self._limiter:
                return await self._answer(query, bytes_max)

        return await self._requests.answers(queries, answer, "what on_query waited for was cancelled")

    async def _answer(self, query: ModelQuery, bytes_max: int) -> Response:
        try:
            if self._is_async:
                made = self._on_query(query)
            else:
                made = await anyio.to_thread.run_sync(self._on_query, query, abandon_on_cancel=True)
            text = await made if isinstance(made, Awaitable) else made
        except QueryError as error:
            return Failed(error)
        if not isinstance(text, str):
            raise UsageError(f"on_query returned a {type(text).__name__}; an answer is a str")
        size = text_bytes(text, bytes_max)
        if size > bytes_max:
            key = "boundary.response_bytes_max"
            return Denied(LimitExceeded("the model's answer", key=key, size=size, limit=bytes_max))
        return Completed(str.__str__(text), None)


def _caps(request: RlmQuery | RlmQueryBatch) -> Mapping[str, int]:
    if request.budget is None:
        return _NOTHING
    caps = {dimension.value: most for dimension, most in request.budget.items() if most is not None}
    return MappingProxyType(caps)
