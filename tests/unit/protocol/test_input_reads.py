"""The gate for what a guest asks of an input: typed and bounded, or a violation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, InternalError
from rlm_wasm.protocol.input_reads import (
    FUEL_PER_CALL,
    NEEDLE_BYTES_MAX,
    NUMBERS,
    OFFSET_MAX,
    PAGE_BYTES,
    PAGES_MAX,
    PART_BYTES_MAX,
    SEARCHED_BYTES_MAX,
    InputAsked,
    InputOp,
    InputPart,
    decode_asked,
    request_bytes_max,
)

pytestmark = pytest.mark.threat("T-202")

READ, SIZE, FIND, COUNT, CHARACTERS = (op << 24 for op in InputOp)


def search(end: int, needle: bytes) -> bytes:
    return struct.pack("<qq", end, 0) + needle


def test_each_call_is_what_it_says() -> None:
    assert decode_asked(READ | 7, 5, 100, b"") == InputAsked(InputOp.READ, 7, 5, 100)
    assert decode_asked(SIZE | 7, 0, 8, b"") == InputAsked(InputOp.SIZE, 7, 0, 0)
    assert decode_asked(FIND | 7, 5, 0, search(105, b"x")) == InputAsked(InputOp.FIND, 7, 5, 100, b"x")
    assert decode_asked(CHARACTERS | 7, 0, 8, b"") == InputAsked(InputOp.CHARACTERS, 7, 0, 2 * PAGE_BYTES)


def test_a_search_looks_through_no_more_than_a_step() -> None:
    assert decode_asked(COUNT, 0, 0, search(OFFSET_MAX, b"x")).length == SEARCHED_BYTES_MAX
    assert decode_asked(COUNT, 9, 0, search(3, b"x")).length == 0


@pytest.mark.parametrize(
    ("number", "offset", "length", "given"),
    [
        (READ, 0, PART_BYTES_MAX + 1, b""),
        (READ, -1, 1, b""),
        (READ, OFFSET_MAX + 1, 1, b""),
        (SIZE, 0, 7, b""),
        (SIZE, 1, 8, b""),
        (CHARACTERS, 0, 4 * (PAGES_MAX + 1), b""),
        (CHARACTERS, -1, 4, b""),
        (FIND, 0, 0, b""),
        (FIND, 0, 0, search(9, b"")),
        (FIND, -1, 0, search(9, b"x")),
        (COUNT, 0, 0, search(9, b"x" * (NEEDLE_BYTES_MAX + 1))),
        (5 << 24, 0, 8, b""),
        (-1, 0, 8, b""),
        (127 << 24, 0, 8, b""),
    ],
)
def test_what_no_module_of_the_guests_asks_is_a_violation(
    number: int, offset: int, length: int, given: bytes
) -> None:
    with pytest.raises(BoundaryViolation):
        decode_asked(number, offset, length, given)


@given(
    number=st.integers(-(2**31), 2**31 - 1),
    offset=st.integers(-(2**63), 2**63 - 1),
    length=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=100),
)
def test_what_passes_the_gate_is_bounded(number: int, offset: int, length: int, data: bytes) -> None:
    try:
        asked = decode_asked(number, offset, length, data)
    except BoundaryViolation:
        return
    assert 0 <= asked.number < NUMBERS
    assert 0 <= asked.offset <= OFFSET_MAX
    assert 0 <= asked.length <= SEARCHED_BYTES_MAX
    assert asked.answer_bytes_max <= PART_BYTES_MAX
    assert asked.answer_bytes_max <= request_bytes_max(number)
    assert asked.fuel >= FUEL_PER_CALL + asked.length
    assert asked.checked() is asked


@pytest.mark.parametrize("part", [InputPart(b"12345"), InputPart(b"1", 29), InputPart(b"", 1)])
def test_an_answer_to_something_else_is_a_bug_of_ours(part: InputPart) -> None:
    with pytest.raises(InternalError):
        part.checked(InputAsked(InputOp.READ, 0, 0, 4))
