"""What a guest asks of an input, against the same done to all of its bytes at once."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import UsageError
from rlm_wasm.folder_text import FolderText
from rlm_wasm.host import held_inputs, input_answers
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
    return inputs, kept(inputs, "context", "f", value)


def kept(inputs: HeldInputs, variable: str, file: str, value: bytes | str | InputFile) -> int:
    number = inputs.add(variable, file, value).number
    inputs.keep(number)
    return number


def is_there(inputs: HeldInputs, number: int) -> bool:
    return answer(inputs, InputAsked(InputOp.READ, number, 0, 1)).status == 0


class Watched(bytearray):
    """A buffer that says how much of it was looked through, and that looks through nothing from behind."""

    looked_at = 0

    def count(self, needle: bytes, start: int = 0, end: int = 1 << 62, /) -> int:  # type: ignore[override]
        Watched.looked_at += min(end, len(self)) - start
        return super().count(needle, start, end)

    def rfind(self, *arguments: object) -> int:
        raise AssertionError("from behind it takes all places times the needle")

    rindex = rfind


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


@settings(deadline=None)
@given(
    data=st.text("ab", max_size=120).map(str.encode),
    needle=st.text("ab", min_size=1, max_size=9).map(str.encode),
    piece=st.integers(1, 30),
)
def test_counting_by_pieces_is_counting_at_once(data: bytes, needle: bytes, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_answers, "_PIECE_BYTES", piece)
        assert count_all(data, needle, SEARCHED_BYTES_MAX) == data.count(needle)


@pytest.mark.parametrize(
    "needle", [b"ab" + b"a" * 4094, b"a" * 4094 + b"ba", b"a" * 4096, b"ab" * 2048], ids=range(4)
)
def test_counting_looks_at_each_byte_a_few_times_whatever_the_needle(
    needle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_answers, "bytearray", Watched, raising=False)
    monkeypatch.setattr(Watched, "looked_at", 0)
    for data in (b"a" * 3 * MIB, needle * (3 * MIB // len(needle)), b"a" * (MIB - 2000) + needle * 500):
        before = Watched.looked_at
        assert count_all(data, needle, SEARCHED_BYTES_MAX) == data.count(needle)
        assert Watched.looked_at - before <= 16 * len(data)


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
    assert is_at_hand(inputs, InputAsked(InputOp.SIZE, number, 0, 0))


def test_the_characters_of_a_text_are_looked_at_on_a_thread_and_once() -> None:
    size, read = (InputAsked(op, 1, 0, 1) for op in (InputOp.SIZE, InputOp.READ))
    inputs, _ = held("x" * MIB)
    assert is_at_hand(inputs, size)
    assert is_at_hand(inputs, read)
    inputs, _ = held("x" * MIB + "é")
    assert not is_at_hand(inputs, size)
    assert not is_at_hand(inputs, read)
    assert answer(inputs, size).data == struct.pack("<q", MIB + 2)
    assert is_at_hand(inputs, size)
    assert is_at_hand(inputs, read)


def test_of_a_text_only_the_part_is_encoded_that_is_asked_for() -> None:
    for letter in ("x", "漢"):
        inputs, number = held(text := letter * 8 * MIB)
        answer(inputs, InputAsked(InputOp.SIZE, number, 0, 0))
        tracemalloc.start()
        part = answer(inputs, InputAsked(InputOp.READ, number, 4 * MIB, 1000)).data
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert part == text.encode()[4 * MIB : 4 * MIB + 1000]
        assert most < MIB


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from("aé漢🙂\ud800"), max_size=40),
    offset=st.integers(0, 170),
    length=st.integers(0, 40),
)
def test_a_part_of_a_text_is_the_part_of_its_bytes(text: str, offset: int, length: int) -> None:
    data = text.encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_inputs, "_PAGE_CHARS", 3)
        inputs, number = held(text)
        part = answer(inputs, InputAsked(InputOp.READ, number, offset, length)).data
        assert part == data[offset : offset + length]
        assert answer(inputs, InputAsked(InputOp.SIZE, number, 0, 0)).data == struct.pack("<q", len(data))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "é" * 128])
def test_an_input_is_called_as_a_file_can_be(name: str) -> None:
    with pytest.raises(UsageError):
        HeldInputs().add("context", name, b"")


def test_another_input_takes_the_place_of_one_when_the_guest_has_it() -> None:
    inputs, first = held(b"1")
    second = inputs.add("context", "f", b"2").number
    assert is_there(inputs, first)
    inputs.keep(second)
    assert not is_there(inputs, first)
    inputs.drop(third := inputs.add("context", "f", b"3").number)
    assert not is_there(inputs, third)
    assert answer(inputs, InputAsked(InputOp.READ, second, 0, 1)).data == b"2"


def test_an_input_is_there_as_long_as_its_variable_or_its_file_is() -> None:
    inputs = HeldInputs()
    first, second = kept(inputs, "a", "x.csv", b"1"), kept(inputs, "b", "x.csv", b"2")
    assert is_there(inputs, first)
    third = kept(inputs, "b", "y.csv", b"3")
    assert is_there(inputs, second)
    fourth = kept(inputs, "a", "x.csv", b"4")
    assert not is_there(inputs, first)
    assert not is_there(inputs, second)
    assert is_there(inputs, third)
    assert is_there(inputs, fourth)
    inputs.clear()
    assert not is_there(inputs, fourth)


def test_so_many_inputs_there_are_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_inputs, "INPUTS_MAX", 3)
    inputs = HeldInputs()
    for number in range(3):
        kept(inputs, f"v{number}", f"{number}", b"")
    with pytest.raises(UsageError, match="at most 3 inputs"):
        inputs.add("v3", "3", b"")
    with pytest.raises(UsageError):
        inputs.add("v3", "0", b"")  # which is v0's still
    kept(inputs, "v0", "0", b"")


def test_numbers_that_a_guest_cannot_name_are_given_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is given once, though the input of the one before it is gone."""
    monkeypatch.setattr(held_inputs, "NUMBERS", 4)
    inputs = HeldInputs()
    assert [kept(inputs, "a", "a", b"x") for _ in range(2)] == [1, 2]
    refused = "has had all the inputs that it can number"
    with pytest.raises(UsageError, match=refused):
        inputs.add("d", "d", FolderText.of({"b": "1", "c": "2"}))
    assert kept(inputs, "a", "a", b"y") == 3
    with pytest.raises(UsageError, match=refused):
        inputs.add("a", "a", b"z")
    assert is_there(inputs, 3)


def test_a_fork_has_the_inputs_of_its_origin_and_its_own() -> None:
    origin = HeldInputs()
    number = kept(origin, "a", "f", b"1")
    fork = HeldInputs()
    fork.begin_with(origin.copy())
    other = kept(fork, "b", "g", b"2")
    assert other != number
    assert answer(fork, InputAsked(InputOp.READ, number, 0, 1)).data == b"1"
    assert origin.get(other) is None
