"""What passes the gate, and what goes back through it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from rlm_wasm.errors import (
    BoundaryViolation,
    BudgetExceeded,
    ChildFailed,
    LimitExceeded,
    NoText,
    ProviderError,
    QueryError,
    ToolArgumentError,
)
from rlm_wasm.protocol.guest_frames import (
    Budget,
    Finish,
    LlmQuery,
    LlmQueryBatch,
    Request,
    RlmQuery,
    RlmQueryBatch,
    ToolCall,
    ToolCallBatch,
    check_shape,
    decode_request,
    encode_batch_response,
    encode_budget_response,
    encode_finish_response,
    encode_response,
    encode_tool_batch_response,
    encode_tool_response,
)
from rlm_wasm.scheduler.ledger import Charge, Dimension, Ledger
from rlm_wasm.scheduler.messages import FinishReason, Usage
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, Response, TimedOut
from tests.support.core_facts import boundary, budget

LIMITS = boundary()


def frame(**document: Any) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        (frame(type="llm_query", prompt="hé"), LlmQuery("hé")),
        (frame(type="llm_query", prompt="", model=None), LlmQuery("")),
        (frame(prompt="a", model="m", type="llm_query"), LlmQuery("a", "m")),
        (frame(type="llm_query_batch", prompts=["a", "b"]), LlmQueryBatch(("a", "b"))),
        (frame(type="rlm_query", prompt="a"), RlmQuery("a")),
        (
            frame(type="rlm_query", prompt="a", model="m", budget={"calls": 5, "fuel": 0}),
            RlmQuery("a", "m", {Dimension.CALLS: 5, Dimension.FUEL: 0}),
        ),
        (frame(type="rlm_query_batch", prompts=["a", "b"]), RlmQueryBatch(("a", "b"))),
        (frame(type="finish", answer="42"), Finish("42")),
        (frame(type="budget"), Budget()),
    ],
)
def test_each_kind_of_request_is_understood(sent: bytes, understood: Request) -> None:
    assert decode_request(sent, LIMITS) == understood


@pytest.mark.parametrize("field", ["depth", "run_id", "session", "tenant", "request_id", "origin"])
@pytest.mark.parametrize("kind", ["llm_query", "rlm_query", "finish", "budget"])
def test_a_guest_cannot_say_who_it_is(kind: str, field: str) -> None:
    own: dict[str, str] = {
        "llm_query": {"prompt": "x"},
        "rlm_query": {"prompt": "x"},
        "finish": {"answer": "x"},
    }.get(kind, {})
    decode_request(frame(type=kind, **own), LIMITS)
    with pytest.raises(BoundaryViolation):
        decode_request(frame(type=kind, **own, **{field: 0}), LIMITS)


@pytest.mark.parametrize(
    "sent",
    [
        frame(type="llm_query", prompt="x", budget={}),
        frame(type="rlm_query"),
        frame(type="rlm_query", prompt="x", budget=5),
        frame(type="rlm_query", prompt="x", budget={"calls": -1}),
        frame(type="rlm_query", prompt="x", budget={"calls": 1.5}),
        frame(type="rlm_query", prompt="x", budget={"calls": 10**17}),
        frame(type="rlm_query", prompt="x", budget={"wishes": 3}),
        frame(type="rlm_query_batch", prompts=[]),
        frame(type="llm_query"),
        frame(type="llm_query", prompt=5),
        frame(type="llm_query", prompt=["x"]),
        frame(type="llm_query", prompt="x", model=5),
        frame(type="llm_query_batch", prompts=[]),
        frame(type="llm_query_batch", prompts=["x", None]),
        frame(type="llm_query_batch", prompts="xy"),
        frame(type="finish", answer=None),
        frame(prompt="x"),
        frame(type=5),
        b"",
        b"null",
        b'{"type":"budget"',
        b'{"type":"budget"}{}',
    ],
)
def test_a_frame_of_the_wrong_form_is_a_violation(sent: bytes) -> None:
    with pytest.raises(BoundaryViolation):
        decode_request(sent, LIMITS)


def at_size(size: int, key: str, **document: str) -> bytes:
    empty = len(frame(**document, **{key: ""}))
    return frame(**document, **{key: "x" * (size - empty)})


def test_each_cap_is_exact() -> None:
    decode_request(at_size(4_096, "answer", type="finish"), LIMITS)
    with pytest.raises(BoundaryViolation, match="4097 bytes, 4096 allowed"):
        decode_request(at_size(4_097, "answer", type="finish"), LIMITS)
    budget_frame = frame(type="budget")
    decode_request(budget_frame.ljust(256), LIMITS)
    with pytest.raises(BoundaryViolation, match="257 bytes, 256 allowed"):
        decode_request(budget_frame.ljust(257), LIMITS)


def prompts_frame(kind: str, *prompts: str, **more: Any) -> bytes:
    """Write a batch as the guest's modules do."""
    head = {"type": f"{kind}_batch"}
    body = {"prompts": prompts, **more} if kind == "llm_query" else {**more, "prompts": prompts}
    return json.dumps({**head, **body}, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("kind", ["llm_query", "rlm_query"])
@pytest.mark.parametrize(
    ("prompts", "key", "size", "limit"),
    [
        (["x" * 1_025], "boundary.prompt_bytes_max", 1_025, 1_024),
        (["é" * 600], "boundary.prompt_bytes_max", 1_200, 1_024),
        (["", "\U0001f600" * 257], "boundary.prompt_bytes_max", 1_028, 1_024),
        (["x"] * 5, "boundary.batch_items_max", 5, 4),
        (["x"] * 24, "boundary.batch_items_max", 24, 4),
        (["x"] * 300, "boundary.batch_items_max", 300, 4),
        (['"]', '\\"', "\\", '"prompts":["'] * 60, "boundary.batch_items_max", 240, 4),
        ([""] * 1_000, "boundary.batch_items_max", 1_000, 4),
    ],
)
def test_a_request_that_is_only_too_large_names_the_limit_and_both_numbers(
    kind: str, prompts: list[str], key: str, size: int, limit: int
) -> None:
    frames = [prompts_frame(kind, *prompts), prompts_frame(kind, *prompts, model="m[]")]
    if kind == "rlm_query":
        frames.append(prompts_frame(kind, *prompts, model="m", budget={"calls": 5, "fuel": 7}))
    if len(prompts) == 1:
        frames.append(json.dumps({"type": kind, "prompt": prompts[0]}, ensure_ascii=False).encode())
    for sent in frames:
        with pytest.raises(LimitExceeded, match=f"{size}.*{key} allows {limit}") as refused:
            decode_request(sent, LIMITS)
        assert (refused.value.key, refused.value.size, refused.value.limit) == (key, size, limit)


def test_the_item_that_is_too_large_is_named() -> None:
    with pytest.raises(LimitExceeded, match=r"prompts\[2\] has 1025 bytes"):
        decode_request(prompts_frame("llm_query", "a", "b", "x" * 1_025), LIMITS)


def test_what_just_fits_is_understood() -> None:
    decode_request(prompts_frame("llm_query", *["é" * 512] * 3), LIMITS)
    decode_request(frame(type="llm_query", prompt="x" * 1_024), LIMITS)


@pytest.mark.parametrize("model", ["m" * 257, "m" * 3_000])
def test_a_name_that_no_model_has_is_refused_for_that(model: str) -> None:
    with pytest.raises(QueryError, match=f"a name of {len(model)} characters"):
        decode_request(frame(type="llm_query", prompt="x", model=model), LIMITS)


@pytest.mark.parametrize(
    "sent",
    [
        frame(type="finish", answer="x", more=["x"] * 300),
        frame(type="llm_query", prompt="x", prompts=["x"] * 3, **{f"k{n}": "" for n in range(40)}),
        b"[" + b'"",' * 300 + b'""]',
    ],
)
def test_many_strings_that_are_no_batch_over_its_limit_are_a_violation(sent: bytes) -> None:
    with pytest.raises(BoundaryViolation, match="strings, 28 allowed"):
        decode_request(sent, LIMITS)


def test_brackets_and_quotes_inside_a_prompt_are_text() -> None:
    prompt = '[[[[[[[[[[{{{{{{{{{{ "quoted" \\" \\\\'
    assert decode_request(frame(type="llm_query", prompt=prompt), LIMITS) == LlmQuery(prompt)


def test_a_backslash_at_the_end_of_a_string_does_not_hide_where_it_ends() -> None:
    prompts = ("\\", "[[[[[[[[[[", '\\"', "]]]]]]]]]]")
    assert decode_request(frame(type="llm_query_batch", prompts=prompts), LIMITS) == LlmQueryBatch(prompts)
    with pytest.raises(BoundaryViolation, match="deeper than 8"):
        decode_request(b'{"a":"\\\\","b":' + b"[" * 8 + b"]" * 8 + b"}", LIMITS)


def test_the_shape_of_a_frame_is_bounded_exactly() -> None:
    def check(sent: bytes) -> None:
        check_shape(sent, bytes_max=10_000, nesting_max=8, strings_max=3)

    check(b"[{" * 4 + b"}]" * 4)
    with pytest.raises(BoundaryViolation, match="nested deeper than 8"):
        check(b"[{" * 4 + b"[]" + b"}]" * 4)
    check(b"[" * 8)
    with pytest.raises(BoundaryViolation, match="nested deeper than 8"):
        check(b"[" * 9)
    check(b"[]" * 1_024)
    with pytest.raises(BoundaryViolation, match="2050 brackets, 2048 allowed"):
        check(b"[]" * 1_025)
    check(b'"a","b","c"')
    with pytest.raises(BoundaryViolation, match="4 strings, 3 allowed"):
        check(b'"a","b","c","')


def test_a_violation_does_not_quote_the_frame() -> None:
    with pytest.raises(BoundaryViolation) as caught:
        decode_request(frame(type="\x1b[31mevil"), LIMITS)
    assert "evil" not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


RESPONSES: list[tuple[Response, dict[str, Any]]] = [
    (Completed("text", Usage(1, 2)), {"status": "completed", "text": "text"}),
    (Completed("te", None, FinishReason.LENGTH), {"status": "completed", "text": "te", "cut": True}),
    (Completed("text", None, FinishReason.STOP), {"status": "completed", "text": "text"}),
    (
        Failed(ProviderError("down")),
        {"status": "failed", "error": {"type": "ProviderError", "message": "down"}},
    ),
    (
        Denied(BudgetExceeded("calls", requested=2, available=1, limit=3)),
        {
            "status": "denied",
            "error": {
                "type": "BudgetExceeded",
                "message": "calls budget exceeded: requested 2, 1 of 3 available",
            },
        },
    ),
    (
        Failed(ChildFailed("out of turns", partial="a d\ud800aft")),
        {
            "status": "failed",
            "error": {"type": "ChildFailed", "message": "out of turns", "partial": "a d?aft"},
        },
    ),
    (
        Failed(ChildFailed("out of turns")),
        {"status": "failed", "error": {"type": "ChildFailed", "message": "out of turns"}},
    ),
    (
        Denied(LimitExceeded("a batch of 9 prompts", key="boundary.batch_items_max", size=9, limit=4)),
        {
            "status": "denied",
            "error": {
                "type": "LimitExceeded",
                "message": "a batch of 9 prompts; boundary.batch_items_max allows 4",
                "key": "boundary.batch_items_max",
                "limit": 4,
            },
        },
    ),
    (
        Failed(NoText("the provider sent no text")),
        {"status": "failed", "error": {"type": "ProviderError", "message": "the provider sent no text"}},
    ),
    (
        TimedOut(50),
        {"status": "timed_out", "error": {"type": "QueryTimeout", "message": "no answer within 50 ms"}},
    ),
    (
        Cancelled("by hand"),
        {
            "status": "cancelled",
            "error": {"type": "QueryCancelled", "message": "the run ended first: by hand"},
        },
    ),
]


@pytest.mark.parametrize(("response", "document"), RESPONSES)
def test_a_failure_is_a_typed_error_and_never_text(response: Response, document: dict[str, Any]) -> None:
    assert json.loads(encode_response(response)) == document


def test_each_item_of_a_batch_ends_in_its_own_way() -> None:
    encoded = json.loads(encode_batch_response([response for response, _ in RESPONSES]))
    assert encoded == {"status": "completed", "items": [document for _, document in RESPONSES]}


def test_the_budget_goes_back_by_dimension() -> None:
    ledger = Ledger(budget(calls_max=10))
    ledger.spend(Charge(calls=2))
    ledger.reserve(Charge(calls=3))
    encoded = json.loads(encode_budget_response(ledger.snapshot()))
    assert encoded["status"] == "completed"
    assert set(encoded["budget"]) == {d.value for d in Dimension}
    assert encoded["budget"]["calls"] == {"limit": 10, "spent": 2, "reserved": 3, "available": 5}


def test_a_finish_is_acknowledged() -> None:
    assert json.loads(encode_finish_response()) == {"status": "completed"}


def test_a_lone_surrogate_in_an_answer_does_not_stop_it() -> None:
    assert msgspec.json.decode(encode_response(Completed("a\ud800é", None))) == {
        "status": "completed",
        "text": "a?é",
    }


def test_a_call_and_a_batch_of_calls_are_read_as_they_are_sent() -> None:
    one = json.dumps({"type": "tool_call", "tool": "t", "arguments": '{"a": [1, {"b": 2}]}'}).encode()
    assert decode_request(one, LIMITS) == ToolCall("t", '{"a": [1, {"b": 2}]}')
    several = {"type": "tool_call_batch", "tools": ["t", "u"], "arguments": ["{}", "[" * 90]}
    assert decode_request(json.dumps(several).encode(), LIMITS) == ToolCallBatch(("t", "u"), ("{}", "[" * 90))


@pytest.mark.parametrize(
    "sent",
    [
        {"type": "tool_call", "tool": "t" * 65, "arguments": "{}"},
        {"type": "tool_call", "tool": "t", "arguments": {}},
        {"type": "tool_call", "tool": "t"},
        {"type": "tool_call_batch", "tools": [], "arguments": []},
        {"type": "tool_call_batch", "tools": ["t"], "arguments": []},
        {"type": "tool_call_batch", "tools": ["t", "t" * 65], "arguments": ["", ""]},
    ],
    ids=["a long name", "no text", "no arguments", "nothing", "fewer arguments", "a long name among others"],
)
def test_a_call_that_the_guests_functions_never_send_is_a_violation(sent: dict[str, object]) -> None:
    with pytest.raises(BoundaryViolation):
        decode_request(json.dumps(sent).encode(), LIMITS)


@pytest.mark.parametrize("count", [5, 100])
def test_a_batch_of_too_many_calls_is_the_codes_to_know(count: int) -> None:
    sent = {"type": "tool_call_batch", "tools": ["t"] * count, "arguments": ['{"a":"x"}'] * count}
    with pytest.raises(LimitExceeded, match=f"a batch of {count} calls; boundary.batch_items_max allows 4"):
        decode_request(json.dumps(sent, separators=(",", ":")).encode(), LIMITS)


def test_the_value_of_a_call_is_json_within_the_response() -> None:
    made = Completed('{"a":[1,"é"]}', None)
    assert json.loads(encode_tool_response(made)) == {"status": "completed", "value": {"a": [1, "é"]}}
    refused = Denied(ToolArgumentError("a: no"))
    both = json.loads(encode_tool_batch_response([made, refused], [(refused, 2)]))
    assert [item["status"] for item in both["items"]] == ["completed", "denied", "denied", "denied"]
    assert both["items"][3]["error"] == {"type": "ToolArgumentError", "message": "a: no"}
