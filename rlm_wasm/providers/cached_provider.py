"""A provider whose answers are kept and given again: the rules of what is kept."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, runtime_checkable

from rlm_wasm.providers.base import Completion, Provider, Query
from rlm_wasm.providers.response_cache import ResponseCache
from rlm_wasm.scheduler.messages import FinishReason


class Fingerprint(NamedTuple):
    """A digest of all that decides an answer, and whether chance decides as well."""

    digest: bytes
    sampled: bool


@runtime_checkable
class Fingerprinted(Protocol):
    """A provider that can tell what decides its answers. Of others nothing is kept."""

    def fingerprint(self, query: Query) -> Fingerprint:
        """Return the fingerprint of one attempt."""
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
        fingerprint = provider.fingerprint(query) if isinstance(provider, Fingerprinted) else None
        if fingerprint is None or (fingerprint.sampled and not self._sampled):
            return await provider.complete(query)
        text = await self._cache.get(self._tenant, fingerprint.digest)
        if text is not None:
            return Completion(text, 0, 0, FinishReason.STOP, cache="hit")
        completion = await provider.complete(query)
        if completion.finish is FinishReason.STOP and isinstance(completion.text, str):
            await self._cache.put(self._tenant, fingerprint.digest, completion.text)
        return completion._replace(cache="miss" if self._cache.fault is None else "unusable")

    async def aclose(self) -> None:
        """Do nothing: the provider is closed by who opened it."""
