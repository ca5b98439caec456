"""Whatever bytes a guest sends, decode_request returns a bounded request or refuses it in one of two ways."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, QueryError
from rlm_wasm.limits import BoundaryLimits
from rlm_wasm.protocol.guest_error import (
    ERROR_FRAME_BYTES_MAX,
    VARIABLES_FRAME_BYTES_MAX,
    VARIABLES_MAX,
    decode_cell_report,
    decode_guest_error,
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
    decode_request,
)
from rlm_wasm.scheduler.ledger import Dimension
from tests.support.core_facts import boundary

SMALL = boundary()
BIG = boundary(frame_bytes_max=4 * 2**20, prompt_bytes_max=4 * 2**20, batch_items_max=64, nesting_max=32)

text = st.text(max_size=40)
child_budgets = st.none() | st.dictionaries(
    st.sampled_from([dimension.value for dimension in Dimension]), st.none() | st.integers(0, 10**16)
)
valid_documents = st.one_of(
    st.builds(lambda p: {"type": "llm_query", "prompt": p}, text),
    st.builds(lambda p, m: {"type": "llm_query", "prompt": p, "model": m}, text, st.none() | text),
    st.builds(lambda p: {"type": "llm_query_batch", "prompts": p}, st.lists(text, max_size=6)),
    st.builds(lambda p: {"type": "rlm_query", "prompt": p}, text),
    st.builds(lambda p, b: {"type": "rlm_query", "prompt": p, "budget": b}, text, child_budgets),
    st.builds(
        lambda p, b: {"type": "rlm_query_batch", "prompts": p, "budget": b},
        st.lists(text, max_size=6),
        child_budgets,
    ),
    st.builds(lambda t, a: {"type": "tool_call", "tool": t, "arguments": a}, text, text),
    st.builds(
        lambda calls: {
            "type": "tool_call_batch",
            "tools": [tool for tool, _ in calls],
            "arguments": [arguments for _, arguments in calls],
        },
        st.lists(st.tuples(text, text), max_size=6),
    ),
    st.builds(lambda a: {"type": "finish", "answer": a}, text),
    st.just({"type": "budget"}),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
field_names = st.sampled_from(
    [
        *("type", "prompt", "prompts", "model", "answer", "budget", "tool", "tools", "arguments"),
        *("depth", "run_id", "session", "tenant", ""),
    ]
)
almost_documents = st.dictionaries(
    field_names,
    st.sampled_from(
        [
            *("llm_query", "llm_query_batch", "finish", "budget", "rlm_query", "rlm_query_batch"),
            *("tool_call", "tool_call_batch"),
        ]
    )
    | child_budgets
    | json_values,
    max_size=6,
)


@st.composite
def damaged_frames(draw: st.DrawFn) -> bytes:
    """Return a frame that was valid until some of its bytes were changed, cut, doubled or inserted."""
    frame = bytearray(
        json.dumps(draw(valid_documents), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    )
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(frame)))
        end = draw(st.integers(start, min(len(frame), start + 8)))
        piece = draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b'"', b"\\", b"[", b"{", b"]", b"}", b"\x00", b"\xff", b"\\ud800", b'","prompt":"']
            )
            | st.just(bytes(frame[start:end]) * 2)
        )
        frame[start:end] = piece
    return bytes(frame)


def bounded(request: Request, limits: BoundaryLimits) -> bool:
    prompts: tuple[str, ...]
    match request:
        case LlmQuery() | RlmQuery():
            prompts = (request.prompt,)
        case LlmQueryBatch() | RlmQueryBatch():
            prompts = request.prompts
            assert 1 <= len(prompts) <= limits.batch_items_max
        case ToolCall():
            return type(request.arguments) is str and len(request.tool) <= 64
        case ToolCallBatch():
            assert 1 <= len(request.tools) <= limits.batch_items_max
            assert len(request.arguments) == len(request.tools)
            return all(type(each) is str for each in request.arguments) and all(
                type(tool) is str and len(tool) <= 64 for tool in request.tools
            )
        case Finish():
            return type(request.answer) is str
        case Budget():
            return True
    own = request.budget if isinstance(request, RlmQuery | RlmQueryBatch) else None
    for dimension, amount in (own or {}).items():
        assert type(dimension) is Dimension
        assert amount is None or (type(amount) is int and 0 <= amount <= 10**16)
    assert request.model is None or (type(request.model) is str and len(request.model) <= 256)
    return all(type(p) is str and len(p.encode()) <= limits.prompt_bytes_max for p in prompts)


def decode_or_refuse(frame: bytes, limits: BoundaryLimits) -> Request | None:
    refused: BoundaryViolation | QueryError | None = None
    try:
        request = decode_request(frame, limits)
    except (BoundaryViolation, QueryError) as exc:
        refused = exc
    if refused is not None:
        assert len(refused.message) < 200
        return None
    assert len(frame) <= limits.frame_bytes_max
    assert bounded(request, limits)
    return request


@given(st.binary(max_size=5_000))
@example(b"")
@example(b"null")
@example(b"\xef\xbb\xbf{}")
@example(b'{"type":"llm_query","prompt":"\\ud800"}')
@example(b'{"type":"llm_query","prompt":"\xed\xa0\x80"}')
@example(b'{"type":"budget","type":"llm_query"}')
@example(b'{"type":"budget"}\x00')
def test_no_bytes_raise_anything_but_a_refusal(frame: bytes) -> None:
    decode_or_refuse(frame, SMALL)


@given(damaged_frames())
@settings(max_examples=300)
def test_no_damaged_frame_raises_anything_but_a_refusal(frame: bytes) -> None:
    decode_or_refuse(frame, SMALL)


@given(json_values | almost_documents)
@settings(max_examples=300)
def test_no_json_document_raises_anything_but_a_refusal(document: object) -> None:
    frame = json.dumps(document).encode("utf-8", "surrogatepass")
    request = decode_or_refuse(frame, SMALL)
    if request is not None:
        assert isinstance(document, dict)
        asked = {"type", "prompt", "prompts", "model", "answer", "budget", "tool", "tools", "arguments"}
        assert set(document) <= asked


@given(valid_documents)
def test_every_honest_frame_within_the_limits_is_understood(document: dict[str, object]) -> None:
    frame = json.dumps(document).encode()
    honest = "\\ud" not in frame.decode() or _has_no_lone_surrogate(frame)
    items = document.get("prompts", document.get("tools", "x"))
    size_ok = 1 <= len(items) <= SMALL.batch_items_max  # type: ignore[arg-type]
    request = decode_or_refuse(frame, SMALL)
    assert (request is not None) == (honest and size_ok)


def _has_no_lone_surrogate(frame: bytes) -> bool:
    try:
        json.dumps(json.loads(frame), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(st.binary(max_size=2_000) | damaged_frames() | json_values.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=200)
@pytest.mark.parametrize("decode", [decode_guest_error, decode_cell_report])
def test_no_report_frame_raises_anything_but_a_boundary_violation(
    decode: Callable[[bytes], object], frame: bytes
) -> None:
    with suppress(BoundaryViolation):
        decode(frame)


SIZE = BIG.frame_bytes_max
BOMBS = {
    "open brackets": b"[" * SIZE,
    "open objects": b'{"a":' * (SIZE // 5),
    "empty lists": b"[" + b"[]," * (SIZE // 3 - 2) + b"[]]",
    "nested to the limit, often": (b"[" * 32 + b"]" * 32) * (SIZE // 64),
    "empty strings in a batch": b'{"type":"llm_query_batch","prompts":['
    + b'"",' * (SIZE // 3 - 20)
    + b'""]}',
    "numbers in a batch": b'{"type":"llm_query_batch","prompts":[' + b"1," * (SIZE // 2 - 30) + b"1]}",
    "unknown field first": b'{"x":[' + b"1," * (SIZE // 2 - 30) + b'1],"type":"budget"}',
    "quotes": b'"' * SIZE,
    "escaped quotes": b'\\"' * (SIZE // 2),
    "a string of escaped quotes": b'"' + b'\\"' * (SIZE // 2 - 1),
    "backslashes": b"\\" * SIZE,
    "spaces": b" " * (SIZE - 17) + b'{"type":"budget"}',
    "not UTF-8": b'{"type":"finish","answer":"' + b"\xff" * (SIZE - 29) + b'"}',
    "a huge number": b'{"type":"finish","answer":' + b"9" * (SIZE - 28) + b"}",
    "a huge tag": b'{"type":"' + b"a" * (SIZE - 11) + b'"}',
    "a huge field name": b'{"' + b"a" * (SIZE - 20) + b'":1}',
    "a doubled key": b'{"type":"finish"' + b',"answer":""' * (SIZE // 12 - 2) + b"}",
    "a huge model": b'{"type":"llm_query","prompt":"","model":"' + b"m" * (SIZE - 50) + b'"}',
    "numbers in a child's budget": b'{"type":"rlm_query","prompt":"","budget":{"calls":'
    + b"9" * (SIZE - 60)
    + b"}}",
    "dimensions nobody has": b'{"type":"rlm_query","prompt":"","budget":{'
    + b'"x":1,' * (SIZE // 6 - 20)
    + b"}}",
    "empty strings in a batch of children": b'{"type":"rlm_query_batch","prompts":['
    + b'"",' * (SIZE // 3 - 20)
    + b'""]}',
    "empty strings in a batch of calls": b'{"type":"tool_call_batch","tools":['
    + b'"",' * (SIZE // 3 - 20)
    + b'""]}',
    "arguments in a batch of calls": b'{"type":"tool_call_batch","tools":["a"],"arguments":['
    + b'"",' * (SIZE // 3 - 30)
    + b'""]}',
    "a huge name of a tool": b'{"type":"tool_call","arguments":"","tool":"' + b"t" * (SIZE - 50) + b'"}',
    "arguments that are no text": b'{"type":"tool_call","tool":"t","arguments":'
    + b"[" * 30
    + b"1," * (SIZE // 2 - 70)
    + b"1"
    + b"]" * 30
    + b"}",
    "a huge control frame": b'{"type":"budget"' + b" " * (SIZE - 17) + b"}",
}


@pytest.mark.parametrize("frame", BOMBS.values(), ids=BOMBS.keys())
def test_a_frame_at_the_cap_is_refused_in_bounded_time_and_memory(frame: bytes) -> None:
    """Work is counted in lines of Python run, memory in bytes allocated: neither depends on the machine."""
    assert len(frame) <= BIG.frame_bytes_max
    lines = 0

    def count(*_: object) -> Callable[..., object]:
        nonlocal lines
        lines += 1
        return count

    tracemalloc.start()
    before = sys.gettrace()
    sys.settrace(count)
    try:
        with pytest.raises((BoundaryViolation, QueryError)):
            decode_request(frame, BIG)
    finally:
        sys.settrace(before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert lines < 20_000, "the work grows with the frame"
    # What is no UTF-8 costs CPython 3.14 four bytes for each of the frame's, and a copy for the error's sake.
    assert peak < 5 * len(frame) + 2**20


def test_an_honest_frame_at_the_cap_is_understood_in_bounded_memory() -> None:
    prompt = 'the "text" \\ of €uro' * (SIZE // 40)
    frame = json.dumps({"type": "llm_query", "prompt": prompt}).encode()
    tracemalloc.start()
    request = decode_request(frame, BIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert request == LlmQuery(prompt)
    assert peak < 4 * len(frame) + 2**20


@pytest.mark.parametrize(
    ("decode", "frame"),
    [
        (decode_guest_error, b" " * (ERROR_FRAME_BYTES_MAX + 1)),
        (decode_cell_report, b" " * (VARIABLES_FRAME_BYTES_MAX + 1)),
        (decode_cell_report, json.dumps({"variables": ["a"] * VARIABLES_MAX}).encode()),
        (decode_guest_error, b"[" * 10_000),
    ],
)
def test_a_report_frame_beyond_its_caps_is_refused(decode: Callable[[bytes], object], frame: bytes) -> None:
    with pytest.raises(BoundaryViolation):
        decode(frame)
