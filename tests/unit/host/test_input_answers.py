"""What a guest asks of an input, against the same done to all of its bytes at once."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import UsageError
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_answers import answer, is_at_hand
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.protocol.input_reads import (
    CHANGED,
    MISSING,
    PAGE_BYTES,
    SEARCHED_BYTES_MAX,
    InputAsked,
    InputOp,
    InputPart,
)

pytestmark = pytest.mark.threat("T-202", "T-203")

MIB = 1 << 20


def held(value: bytes | str | InputFile) -> tuple[HeldInputs, int]:
    inputs = HeldInputs()
    return inputs, inputs.add("f", value).number


def found(part: InputPart) -> tuple[int, int]:
    assert part.status == 0
    place, go_on = struct.unpack("<qq", part.data)
    return place, go_on


def find_all(data: bytes, needle: bytes, start: int = 0, end: int | None = None) -> int:
    """Find as the guest does, a step at a time."""
    inputs, number = held(data)
    last = (len(data) if end is None else end) - len(needle) + 1
    while start < last:
        asked = InputAsked(InputOp.FIND, number, start, min(last - start, SEARCHED_BYTES_MAX), needle)
        place, go_on = found(answer(inputs, asked))
        if place >= 0:
            return place
        assert go_on > start
        start = go_on
    return -1


def count_all(data: bytes, needle: bytes, step: int) -> int:
    inputs, number = held(data)
    start, last, total = 0, len(data) - len(needle) + 1, 0
    while start < last:
        asked = InputAsked(InputOp.COUNT, number, start, min(step, last - start), needle)
        count, go_on = found(answer(inputs, asked))
        assert go_on > start
        total, start = total + count, go_on
    return total


@pytest.mark.parametrize("place", [0, 5, MIB - 3, MIB - 1, MIB, 3 * MIB - 2])
def test_what_lies_across_two_pieces_is_found_and_counted(place: int) -> None:
    data = bytearray(3 * MIB + 10)
    data[place : place + 4] = b"seek"
    assert find_all(bytes(data), b"seek") == place
    assert count_all(bytes(data), b"seek", SEARCHED_BYTES_MAX) == 1
    assert find_all(bytes(data), b"seek", start=place + 1) == -1
    assert find_all(bytes(data), b"seek", end=place + 3) == -1
    assert find_all(bytes(data), b"seek", end=place + 4) == place


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([b"a", b"b", b"aa", b"ab" * 7, b"c"]), max_size=60).map(b"".join),
    needle=st.sampled_from([b"a", b"aa", b"aaa", b"ab", b"aba", b"abab", b"c", b"aab"]),
    step=st.integers(1, 20),
)
def test_counting_by_steps_is_counting_at_once(data: bytes, needle: bytes, step: int) -> None:
    assert count_all(data, needle, step) == data.count(needle)
    assert find_all(data, needle) == data.find(needle)


@pytest.mark.parametrize("needle", [b"aa", b"aba", b"ab"])
def test_what_overlaps_itself_is_counted_across_pieces(needle: bytes) -> None:
    data = (b"a" * 7 + b"b") * (2 * MIB // 8 + 3) + b"a" * 11
    assert count_all(data, needle, SEARCHED_BYTES_MAX) == data.count(needle)


def test_characters_are_counted_by_the_page_that_they_begin_in() -> None:
    text = "é漢🙂x" * (MIB // 8)
    data = text.encode()
    inputs, number = held(text)
    pages = -(-len(data) // PAGE_BYTES)
    asked = InputAsked(InputOp.CHARACTERS, number, 0, pages * PAGE_BYTES)
    counts = struct.unpack(f"<{pages}I", answer(inputs, asked).data)
    assert sum(counts) == len(text)
    assert counts[0] == sum(byte & 0xC0 != 0x80 for byte in data[:PAGE_BYTES])


def test_reading_and_the_size_are_of_the_bytes_of_a_text() -> None:
    inputs, number = held("é\ud800x")
    data = "é\ud800x".encode("utf-8", "surrogatepass")
    assert answer(inputs, InputAsked(InputOp.READ, number, 1, 100)).data == data[1:]
    assert answer(inputs, InputAsked(InputOp.READ, number, 100, 100)).data == b""
    assert answer(inputs, InputAsked(InputOp.SIZE, number, 0, 0)).data == struct.pack("<q", len(data))


def test_an_input_that_is_not_there_is_told() -> None:
    inputs, number = held(b"x")
    assert answer(inputs, InputAsked(InputOp.READ, number + 1, 0, 1)) == InputPart(status=MISSING)
    assert answer(HeldInputs(), InputAsked(InputOp.SIZE, number, 0, 0)) == InputPart(status=MISSING)


def test_a_file_that_changes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    inputs, number = held(InputFile(path))
    asked = InputAsked(InputOp.COUNT, number, 0, 100, b"x")
    assert found(answer(inputs, asked)) == (100, 100)
    os.truncate(path, 50)
    for op, needle in ((InputOp.COUNT, b"x"), (InputOp.READ, b""), (InputOp.FIND, b"y")):
        assert answer(inputs, InputAsked(op, number, 0, 100, needle)) == InputPart(status=CHANGED)


def test_only_what_is_in_memory_is_answered_without_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    inputs, number = held(b"x")
    assert is_at_hand(inputs, InputAsked(InputOp.READ, number, 0, 1))
    assert not is_at_hand(inputs, InputAsked(InputOp.FIND, number, 0, 1, b"x"))
    inputs, number = held(InputFile(path))
    assert not is_at_hand(inputs, InputAsked(InputOp.READ, number, 0, 1))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "é" * 128])
def test_an_input_is_called_as_a_file_can_be(name: str) -> None:
    with pytest.raises(UsageError):
        HeldInputs().add(name, b"")


def test_another_input_of_the_name_takes_its_place() -> None:
    inputs = HeldInputs()
    first, second = inputs.add("f", b"1").number, inputs.add("f", b"2").number
    assert answer(inputs, InputAsked(InputOp.READ, first, 0, 1)).status == MISSING
    assert answer(inputs, InputAsked(InputOp.READ, second, 0, 1)).data == b"2"


def test_a_fork_has_the_inputs_of_its_origin_and_its_own() -> None:
    origin = HeldInputs()
    number = origin.add("f", b"1").number
    fork = HeldInputs()
    fork.begin_with(origin.copy())
    other = fork.add("g", b"2").number
    assert other != number
    assert answer(fork, InputAsked(InputOp.READ, number, 0, 1)).data == b"1"
    assert origin.get(other) is None
