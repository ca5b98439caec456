"""A file of this machine as an input: opened once, read by parts, and told when it changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.host.input_file import InputChanged, InputFile

pytestmark = pytest.mark.threat("T-203")

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "big.log"
    made.write_bytes(DATA)
    return made


def test_parts_are_read_wherever_they_lie(path: Path) -> None:
    file = InputFile(path)
    assert (file.size, len(file), file.name) == (len(DATA), len(DATA), "big.log")
    assert file.read(0, 10) == DATA[:10]
    assert file.read(len(DATA) - 3, 10) == DATA[-3:]
    assert file.read(len(DATA) + 5, 10) == b""
    assert file.sha256() == hashlib.sha256(DATA).hexdigest()


def test_it_may_have_another_name_in_the_guest(path: Path) -> None:
    assert InputFile(path, name="x.csv").name == "x.csv"


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "nul", "device"])
def test_what_cannot_be_read_in_parts_is_refused_by_name_and_without_waiting(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "nul":
        path = tmp_path / "a\0b"
    elif kind == "device":
        path = Path("/dev/null")
    with pytest.raises(UsageError, match=kind if kind not in ("nul", "device") else "null|byte"):
        InputFile(path)


def test_one_that_is_written_to_is_told_and_not_mixed(path: Path) -> None:
    file = InputFile(path)
    assert file.read(0, 4) == DATA[:4]
    with path.open("ab") as more:
        more.write(b"more")
    with pytest.raises(InputChanged):
        file.read(0, 4)
    with pytest.raises(InputChanged):
        file.sha256()


def test_one_of_the_same_size_that_is_written_to_is_told(path: Path) -> None:
    file = InputFile(path)
    path.write_bytes(b"x" * len(DATA))
    os.utime(path, ns=(1, 1))  # also where the clock of the file system is slow
    with pytest.raises(InputChanged):
        file.read(0, 4)


def test_one_that_is_cut_is_told(path: Path) -> None:
    file = InputFile(path)
    os.truncate(path, 10)
    with pytest.raises(InputChanged):
        file.read(0, 100)


def test_one_that_is_replaced_by_its_name_or_removed_is_read_on(path: Path, tmp_path: Path) -> None:
    file = InputFile(path)
    other = tmp_path / "other"
    other.write_bytes(b"other")
    other.replace(path)
    assert file.read(0, 10) == DATA[:10]
    path.unlink()
    assert file.read(0, 10) == DATA[:10]


def test_its_descriptor_goes_with_it(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = InputFile(path)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del file
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_byte_order_mark_is_no_part_of_a_text_and_is_one_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "marked"
    path.write_bytes(b"\xef\xbb\xbftext")
    assert (InputFile(path).size, InputFile(path).read(0, 100), InputFile(path).read(1, 2)) == (
        4,
        b"text",
        b"ex",
    )
    assert InputFile(path).sha256() == hashlib.sha256(b"text").hexdigest()
    assert InputFile(path, as_bytes=True).read(0, 3) == b"\xef\xbb\xbf"
