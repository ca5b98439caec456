"""Chat completions: the gate for what such an endpoint answers, as typed facts or a reason."""

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
from rlm_wasm.providers.base import Completion
from rlm_wasm.providers.json_body import first, member
from rlm_wasm.providers.refusals import Trouble, error_within
from rlm_wasm.scheduler.pricing import utf8_bytes

# What models send beside their text, and is not part of it.
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
_CALLS: Final = ("tool_calls", "function_call")
_BESIDE_THE_TEXT: Final = (*_THOUGHTS, *_CALLS)


def completion_of(
    document: object, headers: Mapping[str, str], thought_bytes: int = 0
) -> Completion | Trouble:
    """Return the answer that a document is, or what it is instead.

    `thought_bytes` is how long thoughts were that are no longer in it.
    """
    error = error_within(headers, document)
    if error is not None:
        return error
    if not _is_chat_completion(document):
        return Trouble("sent JSON that is not a chat completion", retryable=False)
    choice = first(member(document, "choices"))
    message = _said_in(choice, "message", "delta")
    text = text_of(member(message, "content"))
    usage = member(document, "usage")
    given = _tokens(usage, "prompt_tokens", "input_tokens")
    made = _tokens(usage, "completion_tokens", "output_tokens")
    finish = member(choice, "finish_reason")
    if is_silent(text, finish):
        trouble = silence(
            finish,
            refused=member(message, "refusal"),
            called=any(member(message, name) for name in _CALLS),
            thought=bool(text.strip()) or any(member(message, name) for name in _THOUGHTS),
        )
        return trouble._replace(input_tokens=given, output_tokens=made)
    return Completion(
        without_surrogates(text), given, made, finish_in(finish), thought_bytes + _thoughts(message)
    )


def _is_chat_completion(document: object) -> bool:
    """Whether a document has the form, be there a choice in it or not, and in that a message, null or not."""
    if not isinstance(document, dict) or "choices" not in document:
        return False
    choices = document["choices"]
    if not choices:
        return choices is None or isinstance(choices, list)
    choice = first(choices)
    if not isinstance(choice, dict):
        return False
    return isinstance(choice.get("message", 0), dict | None) or bool(_said_in(choice, "delta"))


def _said_in(choice: object, *names: str) -> object:
    """Return what a choice says under the first of these names that says anything.

    Where none does, it may say it as a text, as the interface did before there were messages.
    """
    for name in names:
        if said := member(choice, name):
            return said
    text = member(choice, "text")
    return {"content": text} if isinstance(text, str) else None


def _tokens(usage: object, name: str, other: str) -> int | None:
    """Return a count of tokens by its name; by the one of later interfaces, where there is none by that."""
    stated = member(usage, name)
    return tokens_in(member(usage, other) if stated is None else stated)


def _thoughts(message: object) -> int:
    """Return how much a message, or a piece of one, has of thoughts beside its text."""
    return bytes_of(member(message, name) for name in _THOUGHTS)


class ChatPieces:
    """Puts the deltas of a chat completion together."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.thought_bytes = 0
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._beside: set[str] = set()  # what came beside the text: that there was some is enough
        self._finish: object = None
        self._usage: object = None

    def take(self, document: Mapping[str, object]) -> bool:
        """Take an event. Its last one says so outside of JSON."""
        self._usage = document.get("usage") or self._usage
        choice = first(document.get("choices"))
        if member(choice, "index") in (None, 0):
            delta = _said_in(choice, "delta", "message")
            refused = member(delta, "refusal")
            self._keep(self._texts, text_of(member(delta, "content")))
            self._keep(self._refusals, refused if isinstance(refused, str) else "")
            self.thought_bytes += _thoughts(delta)
            self._beside.update(name for name in _BESIDE_THE_TEXT if member(delta, name))
            self._finish = member(choice, "finish_reason") or self._finish
        return False

    def document(self, *, ended: bool) -> object:
        """Return the completion that the pieces make; one that neither ended nor said why is broken off."""
        if not ended and self._finish is None:
            return Trouble("broke off its answer", retryable=True)
        message: dict[str, object] = dict.fromkeys(self._beside, True)
        message |= {"content": "".join(self._texts), "refusal": "".join(self._refusals)}
        return {"choices": [{"message": message, "finish_reason": self._finish}], "usage": self._usage}

    def _keep(self, texts: list[str], text: str) -> None:
        if text:
            texts.append(text)
            self.kept_bytes += utf8_bytes(text)
