"""`ModelQuery`: what a session's code asks a model, for a function of the caller's that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Final, Literal, Protocol

import anyio
import anyio.to_thread

from rlm_wasm.api.arguments import is_async
from rlm_wasm.engine.request_reader import RequestReader
from rlm_wasm.errors import BudgetExceeded, LimitExceeded, QueryError, UsageError
from rlm_wasm.protocol.guest_frames import (
    Budget,
    Finish,
    LlmQuery,
    LlmQueryBatch,
    RlmQuery,
    RlmQueryBatch,
    encode_batch_response,
    encode_finish_response,
    encode_response,
    text_bytes,
)
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, Response

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
    """Answers the requests of one cell by a function of the caller's; a batch side by side, in order.

    A function that is not async is called on a thread, so that it may wait. `parallel_max` calls are under
    way at a time; of more than `requests_max` prompts the cell gets a BudgetExceeded.
    """

    def __init__(
        self, on_query: OnQuery, reader: RequestReader, *, requests_max: int, parallel_max: int
    ) -> None:
        self._on_query = on_query
        self._reader = reader
        self._requests_max = requests_max
        self._requests = 0
        self._limiter = anyio.CapacityLimiter(parallel_max)
        self._is_async = is_async(on_query)

    async def __call__(self, frame: bytes) -> bytes:
        """Return the response frame. Raises the GuestError that ends the cell, and what is the caller's."""
        request = self._reader.read(frame)
        match request:
            case QueryError():
                return encode_response(Denied(request))
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
            case Finish():
                return encode_finish_response()
            case Budget():
                return encode_response(Denied(QueryError("this session has no budget: it is no run's")))
        return encode_batch_response(await self._answers(queries))

    async def _answers(self, queries: Sequence[ModelQuery]) -> list[Response]:
        """Return what became of each. Raises what one of the calls raised that is nothing for the guest."""
        refused = BudgetExceeded("cell.requests", requested=1, available=0, limit=self._requests_max)
        responses: list[Response] = [Denied(refused)] * len(queries)
        room = max(0, self._requests_max - self._requests)
        self._requests += len(queries)
        bytes_max = self._reader.boundary.response_bytes_max // len(queries)
        raised: list[BaseException] = []

        async def answer(query: ModelQuery) -> None:
            try:
                async with self._limiter:
                    responses[query.index] = await self._answer(query, bytes_max)
            except anyio.get_cancelled_exc_class():
                if tasks.cancel_scope.cancel_called or anyio.current_effective_deadline() == -inf:
                    raise
                # Nobody here was cancelled, but something that the function waited for.
                responses[query.index] = Cancelled("what on_query waited for was cancelled")
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
                # Raised again below, without the group's wrapping; from a task of its own those that end a
                # program would end the event loop.
                raised.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for query in queries[:room]:
                tasks.start_soon(answer, query)
        if raised:
            raise raised[0]
        return responses

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
