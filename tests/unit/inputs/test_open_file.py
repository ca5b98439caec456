"""Reading a file that a user named: bounded, from one descriptor, and told when it changes."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from rlm_wasm.errors import InputError, InputTooLarge, UsageError
from rlm_wasm.inputs.open_file import OpenFile, read_whole


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 10_000)
    assert read_whole(str(tmp_path / "a"), 1 << 30, "k") == bytes(range(256)) * 10_000


def test_a_link_that_a_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("words")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_whole(str(tmp_path / "b"), 100, "k") == b"words"


def test_a_pipe_that_a_user_names_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"x" * 100_000,))
    writer.start()
    assert read_whole(str(pipe), 100_000, "k") == b"x" * 100_000
    writer.join()


@pytest.mark.threat("T-213")
def test_what_has_no_end_is_read_up_to_the_limit() -> None:
    with pytest.raises(
        InputTooLarge, match=r"^/dev/zero is larger than the 5000 bytes that the\.key allows; "
    ):
        read_whole("/dev/zero", 5_000, "the.key")


@pytest.mark.threat("T-213")
def test_a_file_that_says_it_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 40)
    with OpenFile.named(str(tmp_path / "big")) as opened, pytest.raises(InputTooLarge) as caught:
        next(opened.pieces(1 << 30, "the.key"))
    assert (caught.value.key, caught.value.limit, opened.read_bytes) == ("the.key", 1 << 30, 0)


@pytest.mark.threat("T-213")
def test_a_file_that_grows_while_it_is_read_is_what_it_was_when_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * (3 << 20))
    with OpenFile.named(str(path)) as opened:
        found = b""
        for piece in opened.pieces(1 << 30, "k"):
            found += piece
            with path.open("ab") as more:
                more.write(b"b" * (1 << 20))
        assert opened.grew
    assert found == b"a" * (3 << 20)


@pytest.mark.threat("T-213")
@pytest.mark.parametrize("change", ["cut", "write"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a" * (3 << 20))
    with OpenFile.named(str(path)) as opened:
        pieces = opened.pieces(1 << 30, "k")
        assert next(pieces)
        if change == "cut":
            os.truncate(path, 1 << 20)
        else:
            with path.open("r+b") as other:
                other.write(b"b")
            os.utime(path, ns=(1, 1))
        with pytest.raises(InputError, match="changed while it was read"):
            b"".join(pieces)


@pytest.mark.threat("T-213")
def test_another_file_put_in_its_place_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("the one that was opened")
    (tmp_path / "b").write_text("another")
    with OpenFile.named(str(tmp_path / "a")) as opened:
        os.replace(tmp_path / "b", tmp_path / "a")
        assert b"".join(opened.pieces(100, "k")) == b"the one that was opened"


def test_what_the_kernel_calls_empty_and_is_not_is_read() -> None:
    assert read_whole("/proc/self/status", 1 << 20, "k").startswith(b"Name:")


def test_what_cannot_be_read_is_one_line_with_its_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("none", "", "socket"):
            with pytest.raises(InputError, match=r"^cannot read ") as caught:
                read_whole(str(tmp_path / name), 100, "k")
            assert "\n" not in caught.value.message
    with pytest.raises(UsageError, match="the name of a file is empty"):
        read_whole("", 100, "k")


@pytest.mark.threat("T-214")
def test_a_name_that_moves_a_cursor_is_shown_without_doing_so() -> None:
    for name in ("no\x1b[2Jsuch", "no\nsuch", "a\0b", "caf\udce9"):
        with pytest.raises(InputError) as caught:
            read_whole(f"/nowhere/{name}", 100, "k")
        assert caught.value.message.isprintable()
