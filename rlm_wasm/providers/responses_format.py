"""The kind `openai-responses`: any endpoint that speaks OpenAI's /responses."""

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

# Events after which nothing comes, each with the whole response.
_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")
# A response that is not over is none: nobody comes back for it.
_UNFINISHED: Final = ("in_progress", "queued", "cancelled", "failed")


class ResponsesFormat:
    """Responses, which the endpoint is asked not to keep."""

    path: Final[str] = "/responses"
    key_header: Final[KeyHeader] = KeyHeader("Authorization", "Bearer ")
    headers: Final[Mapping[str, str]] = {}

    def body(self, endpoint: Endpoint, query: Query) -> dict[str, object]:
        """Return a request for one response."""
        return {
            "model": query.model,
            "input": messages_in(endpoint.roles, query.messages),
            "max_output_tokens": query.output_tokens_max,
            "store": False,
            "stream": False,
        }

    def pieces(self) -> ResponsesPieces:
        """Return what takes the events of a stream."""
        return ResponsesPieces()

    def answer(
        self, document: object, headers: Mapping[str, str], thought_bytes: int
    ) -> Completion | Trouble:
        """Return the answer that a response is, or what it is instead."""
        error = error_within(headers, document)
        if error is not None:
            return error
        output = member(document, "output")
        if not isinstance(output, list):
            return Trouble("sent JSON that is not a response", retryable=False)
        usage = member(document, "usage")
        given, made = tokens_in(member(usage, "input_tokens")), tokens_in(member(usage, "output_tokens"))
        status = member(document, "status")
        if status in _UNFINISHED:
            return Trouble(
                f"sent a response that is {status}", retryable=True, input_tokens=given, output_tokens=made
            )
        parts = [part for item in output for part in _parts(item)]
        text = "".join(text_of([part]) for part in parts)
        stop = member(member(document, "incomplete_details"), "reason") if status == "incomplete" else status
        if is_silent(text, stop):
            kinds = {str(member(item, "type")) for item in output}
            trouble = silence(
                stop,
                refused=next(filter(None, (member(part, "refusal") for part in parts)), None),
                called=any(kind.endswith("_call") for kind in kinds),
                thought=bool(text.strip()) or "reasoning" in kinds,
                word="status",
            )
            return trouble._replace(input_tokens=given, output_tokens=made)
        thoughts = thought_bytes + sum(_thoughts(item) for item in output)
        return Completion(without_surrogates(text), given, made, finish_in(stop), thoughts)


class ResponsesPieces:
    """Keeps what a stream says of its response: the whole of it at the end, its text as it comes."""

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.thought_bytes = 0
        self._texts: list[str] = []
        self._response: object = None

    def take(self, document: Mapping[str, object]) -> bool:
        """Take an event; one that brings the whole response is the last."""
        kind = document.get("type")
        if kind in _LAST_EVENTS:
            self._response = document.get("response")
            return True
        if kind == "response.output_text.delta" and isinstance(text := document.get("delta"), str):
            self._texts.append(text)
            self.kept_bytes += utf8_bytes(text)
        return False

    def document(self, *, ended: bool) -> object:
        """Return the response; without its end there is none. Some servers leave its text out there."""
        response = self._response
        if not isinstance(response, dict):
            return Trouble("broke off its answer", retryable=True)
        output = response.get("output")
        if not output and self._texts:
            part = {"type": "output_text", "text": "".join(self._texts)}
            return response | {"output": [{"type": "message", "content": [part]}]}
        return response


def _parts(item: object) -> list[object]:
    content = member(item, "content") if member(item, "type") == "message" else None
    return content if isinstance(content, list) else []


def _thoughts(item: object) -> int:
    if member(item, "type") != "reasoning":
        return 0
    lists = (member(item, name) for name in ("content", "summary"))
    return bytes_of(member(part, "text") for parts in lists if isinstance(parts, list) for part in parts)
