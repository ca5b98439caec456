"""A model that answers as it did in a recording: the same messages, the same answers, in their order."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from rlm_wasm.errors import ProviderError
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.scheduler.messages import FinishReason


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What came of one attempt: `text`, or a failure with `error`. `model` is the policy's name."""

    model: str
    digest: bytes
    latency_ns: int
    text: str | None
    input_tokens: int | None
    output_tokens: int | None
    error: ProviderError
    retryable: bool
    sent: bool
    retry_after_ms: int | None
    finish: FinishReason | None = None


class ReplayProvider:
    """Answers from recorded attempts, found by model and messages.

    The n-th attempt with the same messages gets what the n-th one got, failures and all; one more than
    there were, or messages that were never sent, are a failure that says so. With `paced`, an answer
    takes as long as it took. With `any_model`, messages are enough.
    """

    def __init__(
        self, answers: Iterable[RecordedAnswer], *, paced: bool = False, any_model: bool = False
    ) -> None:
        self._paced: Final = paced
        self._any_model: Final = any_model
        self._left: Final[dict[tuple[str, bytes], deque[RecordedAnswer]]] = defaultdict(deque)
        self._models: Final[dict[bytes, set[str]]] = defaultdict(set)  # by what they were asked
        for answer in answers:
            self._left[self._key(answer.model, answer.digest)].append(answer)
            self._models[answer.digest].add(answer.model)

    def _key(self, model: str, digest: bytes) -> tuple[str, bytes]:
        return ("" if self._any_model else model, digest)

    async def complete(self, query: Query) -> Completion:
        """Answer with the next recorded outcome for these messages, or fail as it failed."""
        digest = messages_digest([(message.role, message.content) for message in query.messages])
        left = self._left.get(self._key(query.model, digest))
        if not left:
            raise ProviderFailure(
                ProviderError(self._missing(query.model, digest)), retryable=False, sent=False
            )
        # Taken before any wait: attempts that run together must not get the same one.
        answer = left.popleft()
        if self._paced:
            await anyio.sleep(answer.latency_ns / 1e9)
        if answer.text is None:
            raise ProviderFailure(
                answer.error,
                retryable=answer.retryable,
                sent=answer.sent,
                retry_after_ms=answer.retry_after_ms,
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
            )
        return Completion(answer.text, answer.input_tokens, answer.output_tokens, answer.finish)

    def _missing(self, model: str, digest: bytes) -> str:
        if self._key(model, digest) in self._left:
            return "the recording has no further answer to this prompt"
        if not self._any_model and (others := sorted(self._models.get(digest, ()))):
            return f"the recording has this prompt for {', '.join(others)}, and not for {model}"
        return "the recording never saw this prompt"

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


def messages_digest(messages: Sequence[tuple[str, str]]) -> bytes:
    """Return a digest of roles and contents that no other messages have."""
    digest = hashlib.sha256()
    for part in (part for message in messages for part in message):
        # As a log writes it, where half a surrogate pair has no form.
        data = part.encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
