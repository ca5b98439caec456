"""What is measured of a message before it is decoded."""

from __future__ import annotations

import json

import pytest

from rlm_wasm.limits import MCP_MESSAGE_NESTING_MAX, MCP_MESSAGE_VALUES_MAX
from rlm_wasm.mcp.message_gate import id_of, refusal_of


@pytest.mark.threat("T-400")
@pytest.mark.parametrize(
    "message",
    [
        b"[" + b"[]," * MCP_MESSAGE_VALUES_MAX + b"1]",
        b"[" + b'"",' * (MCP_MESSAGE_VALUES_MAX + 1) + b"1]",
        b"[" * (MCP_MESSAGE_NESTING_MAX + 1),
        b'{"a":' * (MCP_MESSAGE_NESTING_MAX + 1),
    ],
    ids=["lists", "strings", "deep lists", "deep objects"],
)
def test_a_message_that_would_become_too_many_objects_is_refused(message: bytes) -> None:
    assert refusal_of(message) is not None


@pytest.mark.parametrize(
    "value", ["[" * 10_000, "," * 1_000_000, '\\"{[' * 100_000, list(range(10_000)), {"a": [{"b": []}]}]
)
def test_what_stands_in_a_text_counts_for_nothing(value: object) -> None:
    assert refusal_of(json.dumps({"params": value}).encode()) is None


@pytest.mark.parametrize("wanted", [0, 17, -3, "seven", "a-b_c.d:e"])
def test_the_id_of_a_request_is_told_by_either_end_of_it(wanted: object) -> None:
    first = json.dumps({"jsonrpc": "2.0", "id": wanted, "method": "m", "params": {"id": 99}}).encode()
    last = json.dumps({"method": "m", "params": {"id": 99}, "jsonrpc": "2.0", "id": wanted}).encode()
    between = json.dumps({"method": "m", "params": {"id": 99}, "id": wanted, "jsonrpc": "2.0"}).encode()
    for message in (first, last, between):
        assert id_of(message[:1000], message[-1000:]) == wanted


@pytest.mark.parametrize(
    "message", [b"", b"{}", b'{"params": {"id": 5}, "method": "m"}', b'{"id": null, "a": 1}']
)
def test_an_id_that_cannot_be_told_is_none(message: bytes) -> None:
    assert id_of(message, message) is None
