"""The window that a host fills for a worker which may do with it what it likes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_wasm.errors import HostExhausted
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_answers import answer, is_at_hand
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.host.input_window import LocalWindow
from rlm_wasm.host.lent_files import LentFiles
from rlm_wasm.protocol.input_reads import (
    FAILED,
    PART_BYTES_MAX,
    WINDOW_BYTES_MAX,
    InputAsked,
    InputOp,
    InputPart,
)
from tests.support.descriptors import descriptors_left

pytestmark = [pytest.mark.usefixtures("healthy_host")]

MIB = 1 << 20
TEXT = "".join(f"{number} é 漢\n" for number in range(300_000))
DATA = TEXT.encode()


def value_of(kind: str, path: Path) -> InputFile | bytes | str:
    if kind == "file":
        path.write_bytes(DATA)
        return InputFile(path)
    return {"bytes": DATA, "text": TEXT, "ascii": "x" * 3 * MIB}[kind]


@pytest.fixture(params=["file", "bytes", "text", "ascii"])
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[HeldInputs, bytes]]:
    made = HeldInputs()
    made.keep(made.add("context", "f", value_of(request.param, tmp_path / "f")).number)
    yield made, b"x" * 3 * MIB if request.param == "ascii" else DATA
    made.clear()


def read(offset: int, length: int) -> InputAsked:
    return InputAsked(InputOp.READ, 1, offset, length).checked(read_bytes_max=WINDOW_BYTES_MAX)


@pytest.mark.parametrize("offset", [0, 70_001, len(DATA) - 100, len(DATA), 1 << 40])
def test_what_comes_into_a_window_is_the_part_that_was_asked_for(
    inputs: tuple[HeldInputs, bytes], offset: int
) -> None:
    held, data = inputs
    lent, local = LentFiles(), LocalWindow()
    wanted = data[offset : offset + WINDOW_BYTES_MAX]
    assert answer(held, read(offset, WINDOW_BYTES_MAX), local).data == wanted
    window = lent.window(1)
    assert answer(held, read(offset, WINDOW_BYTES_MAX), window) == InputPart(filled=len(wanted))
    assert os.pread(window.file.fd, len(wanted), 0) == wanted


def test_without_a_window_an_answer_is_no_longer_than_a_call_reads(inputs: tuple[HeldInputs, bytes]) -> None:
    held, data = inputs
    assert answer(held, read(5, WINDOW_BYTES_MAX)).data == data[5 : 5 + PART_BYTES_MAX]


def test_what_fills_a_window_is_a_threads_work(inputs: tuple[HeldInputs, bytes]) -> None:
    assert not is_at_hand(inputs[0], read(0, PART_BYTES_MAX + 1))


@pytest.mark.threat("T-205")
@pytest.mark.parametrize("size", [0, 4_096, MIB])
def test_a_window_that_its_holder_cut_is_an_answer_and_no_signal(
    inputs: tuple[HeldInputs, bytes], size: int
) -> None:
    window = LentFiles().window(1)
    os.ftruncate(window.file.fd, size)
    assert answer(inputs[0], read(0, WINDOW_BYTES_MAX), window) == InputPart(status=FAILED)
    assert os.fstat(window.file.fd).st_size == size


@pytest.mark.threat("T-205")
def test_a_window_cannot_grow_is_counted_and_is_gone_with_its_operation() -> None:
    lent = LentFiles()
    window = lent.window(1)
    with pytest.raises(PermissionError):
        os.ftruncate(window.file.fd, WINDOW_BYTES_MAX + 1)
    with pytest.raises(PermissionError):
        window.file.seal()  # and so keep it
    window.put(0, memoryview(b"x" * 3 * MIB))
    assert lent.bytes_held == 3 * MIB
    assert lent.window(1) is window
    lent.take_back(1)
    assert (lent.bytes_held, window.file.bytes_held) == (0, 0)
    with pytest.raises(PermissionError):
        window.put(0, memoryview(b"late"))  # by a thread that nobody waits for


@pytest.mark.threat("T-205")
def test_a_window_is_one_sessions_and_begins_empty() -> None:
    lent = LentFiles()
    first, second = lent.window(1), lent.window(2)
    first.put(0, memoryview(b"of a neighbour"))
    assert os.pread(second.file.fd, 14, 0) == bytes(14)
    lent.take_back(1)
    assert os.pread(lent.window(1).file.fd, 14, 0) == bytes(14)


@pytest.mark.threat("T-205")
def test_one_that_somebody_may_still_fill_is_replaced_and_its_memory_freed() -> None:
    lent = LentFiles()
    first = lent.window(1)
    assert lent.unsent_window(1) is first.file
    assert lent.unsent_window(1) is None
    first.put(0, memoryview(b"x" * MIB))
    first.abandon()
    second = lent.window(1)
    assert second is not first
    assert lent.unsent_window(1) is second.file
    assert (first.file.bytes_held, lent.bytes_held) == (0, 0)
    with pytest.raises(PermissionError):
        first.put(0, memoryview(b"late"))


def test_without_a_descriptor_there_is_no_window_and_nothing_is_lent() -> None:
    lent = LentFiles()
    for left in (0, 1):
        with descriptors_left(left), pytest.raises(HostExhausted):
            lent.window(1)
        assert lent.bytes_held == 0
    before = len(os.listdir("/proc/self/fd"))
    lent.window(1)
    lent.close()
    assert len(os.listdir("/proc/self/fd")) == before
