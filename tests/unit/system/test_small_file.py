"""A small file that a user named: also a pipe, whose writer comes late, is slow, or never comes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rlm_wasm.errors import ArtifactError, PolicyError, UsageError
from rlm_wasm.images.lock import read_lock
from rlm_wasm.policy.document import read_document
from rlm_wasm.providers.script_file import read_replies
from rlm_wasm.system import small_file
from rlm_wasm.system.small_file import read_beginning


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_file_is_read_as_far_as_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    assert [read_beginning(path, most) for most in (0, 3, 6, 7)] == [b"", b"abc", b"abcdef", b"abcdef"]
    with pytest.raises(IsADirectoryError):
        read_beginning(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        read_beginning(tmp_path / "none", 1)
    assert read_beginning(Path(os.devnull), 1) == b""


@pytest.mark.parametrize(
    ("read", "error"), [(read_document, PolicyError), (read_replies, UsageError), (read_lock, ArtifactError)]
)
def test_a_pipe_that_nobody_writes_to_is_said_to_be_one(
    read, error, pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_file, "_WRITER_MS_MAX", 1)
    with pytest.raises(error, match="it is a pipe that nobody writes to"):
        read(pipe)


def test_a_writer_that_comes_after_the_reader_is_read(pipe: Path) -> None:
    def write() -> None:
        with pipe.open("wb") as file:  # waits for the reader
            file.write(b"abc")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_beginning(pipe, 10) == b"abc"
    writer.join()


def test_who_has_a_pipe_open_is_waited_for_however_long_it_takes(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer says nothing until the reader has waited for longer than for one that is not there."""
    monkeypatch.setattr(small_file, "_WRITER_MS_MAX", 1)
    held = os.open(pipe, os.O_RDWR)
    waits = threading.Event()
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        try:
            return real(descriptor, size)
        except BlockingIOError:
            waits.set()
            raise

    monkeypatch.setattr(small_file.os, "read", read)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_beginning(pipe, 10)))
    reader.start()
    for piece in (b"abc", b"def"):
        assert waits.wait(60)
        waits.clear()
        os.write(held, piece)
    assert waits.wait(60)
    os.close(held)
    reader.join()
    assert found == [b"abcdef"]


@pytest.mark.parametrize("written", [b"", b"abc"])
def test_what_a_shell_puts_in_the_place_of_a_file_is_read(written: bytes) -> None:
    """A pipe without a name, whose writer may be gone by now."""
    reads, writes = os.pipe()
    os.write(writes, written)
    os.close(writes)
    try:
        assert read_beginning(Path(f"/dev/fd/{reads}"), 10) == written
    finally:
        os.close(reads)
