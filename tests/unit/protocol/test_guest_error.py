"""What the guest's REPL says at the end of a cell."""

from __future__ import annotations

import json

import pytest

from rlm_wasm.errors import BoundaryViolation
from rlm_wasm.protocol.guest_error import (
    CellVariables,
    GuestErrorReport,
    decode_cell_report,
    decode_guest_error,
)


def test_an_exception_is_a_type_a_message_and_a_traceback() -> None:
    frame = json.dumps({"type": "ValueError", "message": "no", "traceback": 'File "cell"\n'}).encode()
    assert decode_guest_error(frame) == GuestErrorReport("ValueError", "no", 'File "cell"\n')


def test_variables_may_come_with_the_exception_or_alone() -> None:
    error = {"type": "E", "message": "", "traceback": "", "variables": ["a", "b"]}
    assert decode_guest_error(json.dumps(error).encode()).variables == ("a", "b")
    assert decode_cell_report(b'{"variables":["a","b"]}') == CellVariables(("a", "b"))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "E", "message": "x"},
        {"type": "", "message": "x", "traceback": ""},
        {"type": "E" * 257, "message": "x", "traceback": ""},
        {"type": "E", "message": None, "traceback": ""},
        {"type": "E", "message": "x", "traceback": "", "outcome": "completed"},
        {"type": "E", "message": "x", "traceback": "", "variables": [1]},
        ["E", "x", ""],
    ],
)
def test_anything_else_is_a_violation(document: object) -> None:
    with pytest.raises(BoundaryViolation):
        decode_guest_error(json.dumps(document).encode())


@pytest.mark.parametrize("frame", [b"", b"{}", b'{"variables":[""]}', b'{"variables":["a"],"x":1}', b"[]"])
def test_a_malformed_list_of_variables_is_a_violation(frame: bytes) -> None:
    with pytest.raises(BoundaryViolation):
        decode_cell_report(frame)
