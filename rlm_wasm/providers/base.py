"""The interface of a model provider: one query in, one completion or one typed failure out."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from rlm_wasm.errors import ProviderError
from rlm_wasm.scheduler.messages import CacheUse, FinishReason, Message


class Query(NamedTuple):
    """One attempt at one model. `timeout_ms` covers everything from connecting to the last byte."""

    model: str
    messages: tuple[Message, ...]
    output_tokens_max: int
    timeout_ms: int


class Completion(NamedTuple):
    """A model's answer. A token count is None when the provider did not state a believable one.

    `thought_bytes` is how much came of thoughts beside the text: what an estimate of the output counts too.
    `cache` is what came of asking a cache for it: a hit was answered before, and costs nothing.
    """

    text: str
    input_tokens: int | None
    output_tokens: int | None
    finish: FinishReason | None = None
    thought_bytes: int = 0
    cache: CacheUse | None = None


class ProviderFailure(Exception):
    """The only exception a provider raises from `complete`, cancellation aside.

    `sent` is about money: False when the request never left this process, or when the provider
    refused it before doing any work (every 3xx and 4xx status); True whenever work may have been
    done and billed; then `input_tokens` and `output_tokens` are what the provider stated of it, if
    anything. `throttled` says that the provider asks for fewer requests (429). It never
    carries a key, a request header or a raw response.
    """

    def __init__(
        self,
        error: ProviderError,
        *,
        retryable: bool,
        sent: bool,
        retry_after_ms: int | None = None,
        throttled: bool = False,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error: Final = error
        self.retryable: Final = retryable
        self.sent: Final = sent
        self.retry_after_ms: Final = retry_after_ms
        self.throttled: Final = throttled
        self.input_tokens: Final = input_tokens
        self.output_tokens: Final = output_tokens


class Provider(Protocol):
    """A model behind an interface. Safe for many concurrent `complete` calls in one event loop."""

    async def complete(self, query: Query) -> Completion:
        """Answer `query` or raise ProviderFailure; cancelling abandons the request and frees it."""
        ...

    async def aclose(self) -> None:
        """Release every connection. Calling it twice is harmless."""
        ...
