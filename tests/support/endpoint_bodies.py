"""What endpoints of the kinds `anthropic` and `openai-responses` send, and what it means.

A case says what its server sends, and either the answer (`text`, `finish`, `tokens`) or the failure (`again`,
`billed`, `says`). The vendors' own client packages read every one of them: see `test_client_packages.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.support.provider_loopback import http

OK: Final = "200 OK"


@dataclass(frozen=True)
class Case:
    """What one server sends, and what is made of it."""

    name: str
    body: Any = None
    events: tuple[dict[str, Any], ...] = ()
    status: str = OK
    headers: tuple[str, ...] = ()
    text: str | None = None
    finish: str | None = "stop"
    tokens: tuple[int | None, int | None] = (11, 7)
    again: bool = False
    billed: bool = True
    says: str = ""
    wait_ms: int | None = None
    throttled: bool = False
    # Whether it has the whole form that the vendor documents, as types that check would have it.
    official: bool = True

    @property
    def code(self) -> int:
        return int(self.status.split(" ")[0])

    def response(self) -> bytes:
        """Return the bytes that the server sends."""
        if not self.events:
            body = self.body if isinstance(self.body, str) else json.dumps(self.body)
            return http(self.status, body, "Content-Type: application/json", *self.headers)
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in self.events]
        return http(OK, "".join(lines), "Content-Type: text/event-stream", *self.headers)


# -- Anthropic's messages ----------------------------------------------------------------------------

TEXT: Final = {"type": "text", "text": "Bern"}
THINKING: Final = {"type": "thinking", "thinking": "hm, a capital", "signature": "c2ln"}
TOOL_USE: Final = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}


def message(*content: dict[str, Any], stop: str | None = "end_turn", **changes: Any) -> dict[str, Any]:
    """Return a whole message."""
    document = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-5",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 7},
    }
    return document | changes


def message_error(kind: str, words: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}


def message_events(*deltas: dict[str, Any], stop: str = "end_turn", ended: bool = True) -> tuple[Any, ...]:
    """Return a stream: a thought, then text in pieces."""
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": message(stop=None, usage={"input_tokens": 11, "output_tokens": 1}),
        },
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
    ]
    if ended:
        events += [
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop, "stop_sequence": None},
                "usage": {"output_tokens": 7},
            },
            {"type": "message_stop"},
        ]
    return tuple(events)


def pieces(*texts: str) -> tuple[dict[str, Any], ...]:
    return tuple({"type": "text_delta", "text": text} for text in texts)


CACHED: Final = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 2,
    "cache_read_input_tokens": 4,
    "output_tokens": 7,
}

ANTHROPIC: Final = (
    Case("a text", message(TEXT), text="Bern"),
    Case("a text in two blocks", message(TEXT, {"type": "text", "text": "!"}), text="Bern!"),
    Case("a text after a thought", message(THINKING, TEXT), text="Bern"),
    Case(
        "a text after a thought that is kept secret",
        message({"type": "redacted_thinking", "data": "eA=="}, TEXT),
        text="Bern",
    ),
    Case(
        "a text beside a call of a tool", message(TEXT, TOOL_USE, stop="tool_use"), text="Bern", finish=None
    ),
    Case("cut off", message(TEXT, stop="max_tokens"), text="Bern", finish="length"),
    Case(
        "cut off by the window",
        message(TEXT, stop="model_context_window_exceeded"),
        text="Bern",
        finish="length",
    ),
    Case("stopped at a sequence", message(TEXT, stop="stop_sequence", stop_sequence="x"), text="Bern"),
    Case("what was cached is input too", message(TEXT, usage=CACHED), text="Bern", tokens=(11, 7)),
    Case("no usage", message(TEXT, usage=None), text="Bern", tokens=(None, None), official=False),
    Case(
        "usage that is no count",
        message(TEXT, usage={"input_tokens": -1, "output_tokens": "7 tokens"}),
        text="Bern",
        tokens=(None, None),
        official=False,
    ),
    Case("a thought alone", message(THINKING), again=True, says="sent no text but its reasoning"),
    Case(
        "a call alone",
        message(TOOL_USE, stop="tool_use"),
        again=True,
        says="sent no text but a call of a tool",
    ),
    Case(
        "its thoughts alone, as a text",
        message({"type": "text", "text": "<think>hm</think>"}),
        again=True,
        says="sent no text but its reasoning",
    ),
    Case("nothing", message(), again=True, says="sent no text (stop_reason end_turn)"),
    Case("nothing but blanks", message({"type": "text", "text": " \n"}), again=True, says="sent no text"),
    Case(
        "cut off before a word",
        message(THINKING, stop="max_tokens"),
        again=True,
        says="query.output_tokens_max",
    ),
    Case("refused", message(stop="refusal"), says="sent no text (stop_reason refusal)"),
    Case("another form", {"object": "list", "data": []}, says="JSON that is not a message", official=False),
    Case("no JSON", "<html>", says="sent something that is not JSON", official=False),
    Case("nothing at all", "", again=True, says="sent nothing", official=False),
    Case(
        "an error in a 200",
        message_error("overloaded_error", "Overloaded"),
        again=True,
        throttled=True,
        says="answered 200 with the error 529: Overloaded",
        official=False,
    ),
    Case(
        "overloaded",
        message_error("overloaded_error", "Overloaded"),
        status="529 Overloaded",
        again=True,
        throttled=True,
        says="answered 529: Overloaded",
    ),
    Case(
        "too many requests",
        message_error("rate_limit_error", "slow down"),
        status="429 Too Many Requests",
        headers=("retry-after: 1.5",),
        again=True,
        billed=False,
        throttled=True,
        wait_ms=1_500,
        says="answered 429: slow down",
    ),
    Case(
        "a wrong request",
        message_error("invalid_request_error", "max_tokens: Field required"),
        status="400 Bad Request",
        billed=False,
        says="answered 400: max_tokens: Field required",
    ),
    Case(
        "a wrong key",
        message_error("authentication_error", "invalid x-api-key"),
        status="401 Unauthorized",
        billed=False,
        says="answered 401: it did not accept the key",
    ),
    Case(
        "a model that is not there",
        message_error("not_found_error", "model: x"),
        status="404 Not Found",
        billed=False,
        says="answered 404: model: x",
    ),
    Case(
        "an error of its own",
        message_error("api_error", "Internal server error"),
        status="500 Internal Server Error",
        again=True,
        says="answered 500: Internal server error",
    ),
    Case("a stream", events=message_events(*pieces("Be", "rn")), text="Bern"),
    Case(
        "a stream with a thought",
        events=message_events(
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "c2ln"},
            *pieces("Bern"),
        ),
        text="Bern",
        official=False,
    ),
    Case(
        "a stream cut off",
        events=message_events(*pieces("Bern"), stop="max_tokens"),
        text="Bern",
        finish="length",
    ),
    Case(
        "a stream of thoughts alone",
        events=(
            message_events(stop="end_turn")[0],
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
            *message_events(stop="end_turn")[-2:],
        ),
        again=True,
        says="sent no text but its reasoning",
    ),
    Case(
        "a stream that breaks off",
        events=message_events(*pieces("Be"), ended=False),
        again=True,
        says="broke off its answer",
        official=False,
    ),
    Case(
        "a stream with an error",
        events=(*message_events(*pieces("Be"), ended=False), message_error("overloaded_error", "Overloaded")),
        again=True,
        throttled=True,
        says="with the error 529: Overloaded",
        official=False,
    ),
)

# -- OpenAI's responses --------------------------------------------------------------------------------

REASONING: Final = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "It asks for a capital."}],
}
CALL: Final = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}


def said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": list(parts),
    }


def words(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def response(*output: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a whole response."""
    document = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_760_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "gpt-5",
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "text": {"format": {"type": "text"}},
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 18,
        },
    }
    return document | changes


def cut_short(*output: dict[str, Any], reason: str = "max_output_tokens") -> dict[str, Any]:
    return response(*output, status="incomplete", incomplete_details={"reason": reason})


def openai_error(words: str, code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": words, "type": kind, "param": None, "code": code}}


def response_events(*texts: str, last: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
    """Return a stream: text in pieces, and the whole response at its end."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(status="in_progress", usage=None)},
        *({"type": "response.output_text.delta", "delta": text, **place} for text in texts),
    ]
    if last is not None:
        events.append({"type": f"response.{last['status']}", "response": last})
    return tuple(event | {"sequence_number": number} for number, event in enumerate(events))


FAILED: Final = {"code": "server_error", "message": "The model had an error."}
REFUSED: Final = {"type": "refusal", "refusal": "I will not."}

RESPONSES: Final = (
    Case("a text", response(said(words("Bern"))), text="Bern"),
    Case("a text in parts", response(said(words("Be"), words("rn"))), text="Bern"),
    Case("a text after its reasoning", response(REASONING, said(words("Bern"))), text="Bern"),
    Case("a text beside a call", response(said(words("Bern")), CALL), text="Bern"),
    Case("cut off", cut_short(said(words("Bern"))), text="Bern", finish="length"),
    Case("filtered", cut_short(said(words("Be")), reason="content_filter"), text="Be", finish=None),
    Case("no usage", response(said(words("Bern")), usage=None), text="Bern", tokens=(None, None)),
    Case(
        "usage that is no count",
        response(said(words("Bern")), usage={"input_tokens": 1.5, "output_tokens": True}),
        text="Bern",
        tokens=(None, None),
        official=False,
    ),
    Case("its reasoning alone", response(REASONING), again=True, says="sent no text but its reasoning"),
    Case(
        "its thoughts alone, as a text",
        response(said(words("<think>hm</think>\n"))),
        again=True,
        says="sent no text but its reasoning",
    ),
    Case("a call alone", response(CALL), again=True, says="but a call of a tool"),
    Case("nothing", response(), again=True, says="sent no text (status completed)"),
    Case("cut off before a word", cut_short(REASONING), again=True, says="query.output_tokens_max"),
    Case(
        "filtered before a word",
        cut_short(reason="content_filter"),
        says="sent no text (status content_filter)",
    ),
    Case("refused", response(said(REFUSED)), says="the model refused: I will not."),
    Case("failed", response(status="failed", error=FAILED), again=True, says="The model had an error."),
    Case("in the background", response(status="queued"), again=True, says="sent a response that is queued"),
    Case("another form", {"object": "list", "data": []}, says="JSON that is not a response", official=False),
    Case("no JSON", "<html>", says="sent something that is not JSON", official=False),
    Case(
        "an error in a 200",
        openai_error("slow down", "rate_limit_exceeded"),
        again=True,
        billed=False,
        throttled=True,
        says="the error 429: slow down",
        official=False,
    ),
    Case(
        "too many requests",
        openai_error("slow down", "rate_limit_exceeded", "requests"),
        status="429 Too Many Requests",
        headers=("retry-after-ms: 250",),
        again=True,
        billed=False,
        throttled=True,
        wait_ms=250,
        says="answered 429: slow down",
    ),
    Case(
        "out of money",
        openai_error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
        status="429 Too Many Requests",
        billed=False,
        says="answered 429: You exceeded your current quota",
    ),
    Case(
        "a wrong request",
        openai_error("Unsupported parameter: 'temperature'"),
        status="400 Bad Request",
        billed=False,
        says="answered 400: Unsupported parameter",
    ),
    Case(
        "an error of its own",
        openai_error("The server had an error", None, "server_error"),
        status="500 Internal Server Error",
        again=True,
        says="answered 500: The server had an error",
    ),
    Case("a stream", events=response_events("Be", "rn", last=response(said(words("Bern")))), text="Bern"),
    Case(
        "a stream whose end has no output",
        events=response_events("Be", "rn", last=response()),
        text="Bern",
    ),
    Case(
        "a stream cut off",
        events=response_events("Bern", last=cut_short(said(words("Bern")))),
        text="Bern",
        finish="length",
    ),
    Case(
        "a stream that fails",
        events=response_events("Be", last=response(status="failed", error=FAILED)),
        again=True,
        says="The model had an error.",
    ),
    Case("a stream that breaks off", events=response_events("Be"), again=True, says="broke off its answer"),
    Case(
        "a stream with an error",
        events=(
            *response_events("Be"),
            {"type": "error", "code": "server_error", "message": "gone", "param": None, "sequence_number": 2},
        ),
        again=True,
        says="answered 200 with an error: gone",
        official=False,
    ),
)

OF_KIND: Final = {"anthropic": ANTHROPIC, "openai-responses": RESPONSES}
