"""The guest's C code for files that lie with the host: read by parts, written by nobody."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.native_files import CREATE, CUT, READ, WRITE, NativeFiles

GIB = 1 << 30
SIZE = 5 * GIB + 7
# The driver's inputs: there, changed, gone, shorter than it says.
WHOLE, CHANGED, MISSING, SHORT = range(4)
BOTH = READ | WRITE
PATH = b"/inputs/big.log"


@pytest.fixture
def files(native_files: Path) -> Iterator[NativeFiles]:
    with NativeFiles(native_files) as found:
        yield found


def expected(offset: int, count: int) -> bytes:
    return bytes(place % 251 for place in range(offset, min(offset + count, SIZE)))


def asked(files: NativeFiles) -> int:
    return int(files.ask("asked")[0])


def fails(number: int, *words: str | int | bytes, of: NativeFiles) -> bool:
    with pytest.raises(OSError, match=errno.errorcode[number]) as caught:
        of.ask(*words)
    return caught.value.errno == number


def test_an_input_is_a_file_of_its_size_and_of_a_device_of_its_own(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    assert files.stat(PATH).size == SIZE
    assert files.list(b"/inputs") == [b"big.log"]


def test_nothing_is_asked_of_the_host_before_somebody_looks(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    assert files.list(b"/inputs") == [b"big.log"]
    fd = files.open(PATH)
    assert asked(files) == 0
    files.pread(fd, 1, 0)
    assert asked(files) == 2  # the size, once, and a part
    files.pread(fd, 1, 10)
    assert asked(files) == 3


@pytest.mark.parametrize("offset", [0, 1, 250, 4 * GIB - 3, SIZE - 5, SIZE])
def test_a_part_is_read_wherever_it_lies(files: NativeFiles, offset: int) -> None:
    files.ask("input", PATH, WHOLE)
    assert files.pread(files.open(PATH), 1_000, offset) == expected(offset, 1_000)


def test_what_is_longer_than_one_part_comes_in_several_and_whole(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    assert files.pread(files.open(PATH), (2 << 20) + 5, 3) == expected(3, (2 << 20) + 5)


def test_it_is_read_and_sought_like_any_other_file(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    fd = files.open(PATH)
    assert files.read(fd, 4) + files.read(fd, 4) == expected(0, 8)
    assert files.ask("seek", fd, -3, 2) == [str(SIZE - 3)]
    assert files.read(fd, 100) == expected(SIZE - 3, 3)
    assert files.read(fd, 100) == b""


@pytest.mark.parametrize(("flags", "rights"), [(0, WRITE), (0, BOTH), (CUT, BOTH), (CREATE, WRITE)])
def test_nobody_opens_it_to_write(files: NativeFiles, flags: int, rights: int) -> None:
    files.ask("input", PATH, WHOLE)
    with pytest.raises(OSError, match="EACCES"):
        files.open(PATH, flags, rights)


def test_what_was_opened_to_read_cannot_be_written_or_resized(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    fd = files.open(PATH)
    assert fails(errno.EBADF, "write", fd, b"x", of=files)
    assert fails(errno.EBADF, "pwrite", fd, b"x", 0, of=files)
    assert fails(errno.EINVAL, "resize", fd, 3, of=files)
    assert fails(errno.EBADF, "allocate", fd, 0, 10, of=files)


def test_what_the_host_cannot_give_fails_and_says_why(files: NativeFiles) -> None:
    files.ask("input", b"/inputs/changed", CHANGED)
    files.ask("input", b"/inputs/gone", MISSING)
    changed, gone = files.open(b"/inputs/changed"), files.open(b"/inputs/gone")
    assert fails(errno.ESTALE, "read", changed, 10, of=files)
    assert fails(errno.ENOENT, "fstat", gone, of=files)
    assert fails(errno.ENOENT, "read", gone, 10, of=files)
    assert fails(errno.ENOENT, "seek", gone, 0, 2, of=files)


def test_one_that_ends_early_ends_there(files: NativeFiles) -> None:
    files.ask("input", PATH, SHORT)
    assert files.pread(files.open(PATH), 100, 0) == expected(0, 10)


def test_it_can_be_removed_renamed_and_linked_and_takes_no_room(files: NativeFiles) -> None:
    before = files.used()
    files.ask("input", PATH, WHOLE)
    fd = files.open(PATH)
    files.ask("link", PATH, b"/tmp/again")
    files.ask("rename", PATH, b"/tmp/other")
    assert files.pread(files.open(b"/tmp/again"), 5, 9) == expected(9, 5)
    assert files.used()[0] - before[0] < 1_000
    for name in (b"/tmp/again", b"/tmp/other"):
        files.ask("unlink", name)
    assert files.pread(fd, 5, 9) == expected(9, 5)
    assert files.list(b"/tmp") == []


def test_another_input_of_the_name_takes_its_place_and_what_is_open_stays(files: NativeFiles) -> None:
    files.ask("input", PATH, WHOLE)
    fd = files.open(PATH)
    files.ask("input", PATH, SHORT)
    assert files.stat(PATH).size == 1_000
    assert files.pread(fd, 5, 2_000) == expected(2_000, 5)
    assert files.list(b"/inputs") == [b"big.log"]


def test_it_takes_the_place_of_a_file_and_not_of_a_folder(files: NativeFiles) -> None:
    files.write(files.open(PATH, CREATE, WRITE), b"mine")
    files.ask("input", PATH, WHOLE)
    assert files.stat(PATH).size == SIZE
    files.ask("mkdir", b"/inputs/folder")
    assert fails(errno.EISDIR, "input", b"/inputs/folder", 0, of=files)
    files.ask("unlink", PATH)
    files.ask("rmdir", b"/inputs/folder")
    files.ask("rmdir", b"/inputs")
    assert fails(errno.ENOENT, "input", PATH, 0, of=files)


def test_the_folders_between_are_made_and_what_is_in_the_way_is_left(files: NativeFiles) -> None:
    files.ask("input", b"/inputs/docs/a/b.txt", WHOLE)
    files.ask("input", b"/inputs/docs/a/c.txt", WHOLE)
    assert files.list(b"/inputs/docs/a") == [b"b.txt", b"c.txt"]
    assert files.stat(b"/inputs/docs/a/c.txt").size == SIZE
    files.write(files.open(b"/inputs/mine", CREATE, WRITE), b"mine")
    assert fails(errno.ENOTDIR, "input", b"/inputs/mine/x", 0, of=files)
    files.ask("unlink", b"/inputs/docs/a/b.txt")
    files.ask("unlink", b"/inputs/docs/a/c.txt")
    for path in (b"/inputs/docs/a", b"/inputs/docs"):
        files.ask("rmdir", path)
    files.ask("unlink", b"/inputs/mine")
    files.ask("rmdir", b"/inputs")
    assert fails(errno.ENOENT, "input", b"/inputs/docs/a/b.txt", 0, of=files)
