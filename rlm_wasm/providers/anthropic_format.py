"""The kind `anthropic`: any endpoint that speaks Anthropic's /messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.providers.answer_facts import (
    bytes_of,
    finish_in,
    is_silent,
    silence,
    text_of,
    tokens_in,
    without_surrogates,
)
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.json_body import member
from rlm_wasm.providers.refusals import Trouble, error_within
from rlm_wasm.providers.roles import messages_in
from rlm_wasm.providers.wire_format import KeyHeader
from rlm_wasm.scheduler.pricing import utf8_bytes

_THOUGHTS: Final = ("thinking", "redacted_thinking")
# What was read is billed under three names, of which the first alone is never absent.
_INPUTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicFormat:
    """Messages, in the version of the interface that its header names."""

    path: Final[str] = "/messages"
    key_header: Final[KeyHeader] = KeyHeader("Authorization", "Bearer ")
    headers: Final[Mapping[str, str]] = {"anthropic-version": "2026-10-21"}

    def body(self, endpoint: Endpoint, query: Query) -> dict[str, object]:
        """Return a request for one message. The system's words stand apart from the conversation."""
        system = [message.content for message in query.messages if message.role == "system"]
        said = [message for message in query.messages if message.role != "system"]
        document: dict[str, object] = {
            "model": query.model,
            "max_tokens": query.output_tokens_max,
            "messages": messages_in("alternating", said),
            "stream": False,
        }
        return document | {"system": "\n\n".join(system)} if system else document

    def pieces(self) -> AnthropicPieces:
        """Return what takes the events of a stream."""
        return AnthropicPieces()

    def answer(
        self, document: object, headers: Mapping[str, str], thought_bytes: int
    ) -> Completion | Trouble:
        """Return the answer that a message is, or what it is instead."""
        error = error_within(headers, document)
        if error is not None:
            return error
        content = member(document, "content")
        if not isinstance(content, list):
            return Trouble("sent JSON that is not a message", retryable=False)
        text = text_of(content)
        usage, stop = member(document, "usage"), member(document, "stop_reason")
        given, made = _input_tokens(usage), tokens_in(member(usage, "output_tokens"))
        if is_silent(text, stop):
            kinds = {str(member(block, "type")) for block in content}
            trouble = silence(
                stop,
                called=any(kind.endswith("tool_use") for kind in kinds),
                thought=bool(text.strip()) or not kinds.isdisjoint(_THOUGHTS),
                word="stop_reason",
            )
            return trouble._replace(input_tokens=given, output_tokens=made)
        thoughts = thought_bytes + bytes_of(member(block, "thinking") for block in content)
        return Completion(without_surrogates(text), given, made, finish_in(stop), thoughts)


class AnthropicPieces:
    """Puts a message together from its events: its start, pieces of its blocks, how it ended."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.thought_bytes = 0
        self._texts: list[str] = []
        self._kinds: dict[str, None] = {}  # of the blocks, in order
        self._usage: dict[str, object] = {}
        self._stop: object = None

    def take(self, document: Mapping[str, object]) -> bool:
        """Take an event; the one that ends a message is the last."""
        match document.get("type"):
            case "message_start":
                self._count(member(document.get("message"), "usage"))
            case "content_block_start":
                block = document.get("content_block")
                if isinstance(kind := member(block, "type"), str) and len(self._kinds) < 16:
                    self._kinds[kind] = None
                self._keep(text_of([block]))
            case "content_block_delta":
                delta = document.get("delta")
                if member(delta, "type") == "text_delta":
                    self._keep(text_of(member(delta, "text")))
                self.thought_bytes += bytes_of([member(delta, "thinking")])
            case "message_delta":
                self._stop = member(document.get("delta"), "stop_reason") or self._stop
                self._count(document.get("usage"))
            case "message_stop":
                return True
        return False

    def document(self, *, ended: bool) -> object:
        """Return the message that the pieces make; one that neither ended nor said why is broken off."""
        if not ended and self._stop is None:
            return Trouble("broke off its answer", retryable=True)
        blocks: list[object] = [{"type": kind} for kind in self._kinds if kind != "text"]
        blocks.append({"type": "text", "text": "".join(self._texts)})
        return {"type": "message", "content": blocks, "stop_reason": self._stop, "usage": self._usage}

    def _count(self, usage: object) -> None:
        # Counts in later events are of the whole message so far.
        for name in (*_INPUTS, "output_tokens"):
            if (value := member(usage, name)) is not None:
                self._usage[name] = value

    def _keep(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self.kept_bytes += utf8_bytes(text)


def _input_tokens(usage: object) -> int | None:
    """Return what was read: anew, into a cache and out of one. None: the first was not stated."""
    counts = [tokens_in(member(usage, name)) for name in _INPUTS]
    return None if counts[0] is None else tokens_in(sum(count or 0 for count in counts))
