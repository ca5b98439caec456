"""A provider whose answers are kept and given again: the rules of what is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, runtime_checkable

import anyio

from rlm_wasm.providers.base import Completion, Provider, Query
from rlm_wasm.providers.response_cache import ResponseCache
from rlm_wasm.scheduler.messages import FinishReason

# How long an answer that has come waits for others to be put away before it; then it is not kept.
_PUT_S_MAX: Final = 1.0


class PreparedQuery(NamedTuple):
    """One attempt before it is sent: a digest of all that decides its answer, whether chance decides as well,
    and what sends it.
    """

    digest: bytes
    sampled: bool
    complete: Callable[[], Awaitable[Completion]]


@runtime_checkable
class Prepares(Protocol):
    """A provider that can tell what decides its answers. Of others nothing is kept."""

    def prepare(self, query: Query) -> PreparedQuery:
        """Return one attempt, which `complete` of it sends as the provider's own does."""
        ...


class CachedProvider:
    """Another provider's models for one tenant. Kept is what a model ended by itself, and no chance decided.

    So no failure is, no answer that a cap cut off or whose end nobody told, and, unless `sampled`, none of a
    model whose temperature is not 0.
    """

    def __init__(self, provider: Provider, cache: ResponseCache, tenant: str, *, sampled: bool) -> None:
        self._provider: Final = provider
        self._cache: Final = cache
        self._tenant: Final = tenant
        self._sampled: Final = sampled

    async def complete(self, query: Query) -> Completion:
        """Answer as before if that was kept, and else as the provider does; raises what that raises."""
        provider = self._provider
        if not isinstance(provider, Prepares):
            return await provider.complete(query)
        digest, sampled, complete = provider.prepare(query)
        if sampled and not self._sampled:
            return await complete()
        text = await self._cache.get(self._tenant, digest)
        if text is not None:
            return Completion(text, 0, 0, FinishReason.STOP, cache="hit")
        completion = await complete()
        if completion.finish is FinishReason.STOP and isinstance(completion.text, str):
            # It has come and is paid for: who is cancelled now loses neither it nor its place in the cache.
            with anyio.move_on_after(_PUT_S_MAX, shield=True):
                await self._cache.put(self._tenant, digest, completion.text)
        return completion._replace(cache="miss" if self._cache.fault is None else "unusable")

    async def aclose(self) -> None:
        """Do nothing: the provider is closed by who opened it."""
