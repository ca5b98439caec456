"""The guest's C code for files: its limits, and what a kernel's files cannot be compared with."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.native_files import CREATE, CUT, FOLDER_TYPE, NEW, READ, ROOT, WRITE, NativeFiles

BLOCK = 16_384
BOTH = READ | WRITE


@pytest.fixture
def files(native_files: Path) -> Iterator[NativeFiles]:
    with NativeFiles(native_files) as found:
        yield found


def fails(number: int, *words: str | int | bytes, of: NativeFiles) -> bool:
    with pytest.raises(OSError, match=errno.errorcode[number]) as caught:
        of.ask(*words)
    return caught.value.errno == number


def test_a_session_starts_with_its_folders_and_nothing_else(files: NativeFiles) -> None:
    assert files.list(b"/") == [b"tmp", b"out", b"inputs"]
    assert [files.list(b"/" + name) for name in files.list(b"/")] == [[], [], []]


def test_the_root_has_nothing_above_it_and_cannot_be_removed_moved_or_closed(files: NativeFiles) -> None:
    assert files.stat(b"/../../..").id == files.stat(b"/").id == files.fstat(ROOT).id
    assert fails(errno.EBUSY, "rmdir", b"/", of=files)
    assert fails(errno.EBUSY, "rename", b"/", b"/tmp/a", of=files)
    assert fails(errno.EBADF, "close", ROOT, of=files)
    assert fails(errno.EBADF, "renumber", files.open(b"/tmp"), ROOT, of=files)


@pytest.mark.parametrize("size", [1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK + 7])
def test_what_is_written_a_little_at_a_time_is_read_whole(files: NativeFiles, size: int) -> None:
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    data = bytes(k % 251 for k in range(size))
    for start in range(0, size, 1_000):
        files.write(fd, data[start : start + 1_000])
    assert files.pread(fd, size + 100, 0) == data
    assert files.fstat(fd).size == size


def test_growing_takes_room_for_what_there_is_and_a_table_and_no_more(files: NativeFiles) -> None:
    before, _ = files.used()
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    for _ in range(64):
        files.write(fd, b"x" * BLOCK)
    after, _ = files.used()
    assert 64 * BLOCK <= after - before <= 64 * BLOCK + 4_096


def test_a_hole_takes_no_memory_and_reads_as_zeros(files: NativeFiles) -> None:
    before, _ = files.used()
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    files.pwrite(fd, b"end", 50_000_000)
    after, _ = files.used()
    assert after - before < 4 * BLOCK + 50_000_000 // BLOCK * 8
    assert files.pread(fd, 100, 49_999_990) == bytes(10) + b"end"
    files.ask("resize", fd, 60_000_000)
    assert files.used()[0] == after
    assert files.pread(fd, 4, 50_000_001) == b"nd\0\0"


def test_what_was_cut_off_does_not_come_back(files: NativeFiles) -> None:
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    files.write(fd, b"secret" * 10_000)
    for size in (BLOCK + 10, 100, 3):
        files.ask("resize", fd, size)
        files.ask("resize", fd, 60_000)
        assert files.pread(fd, 60_000, size) == bytes(60_000 - size)
        assert files.pread(fd, 3, 0) == b"sec"


def test_a_file_that_is_open_outlives_its_name(files: NativeFiles) -> None:
    before = files.used()
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    files.write(fd, b"kept")
    files.ask("unlink", b"/tmp/f")
    assert files.pread(fd, 10, 0) == b"kept"
    assert files.fstat(fd).names == 0
    files.ask("close", fd)
    assert files.used() == before


def test_a_folder_that_was_removed_takes_nothing_in(files: NativeFiles) -> None:
    files.ask("mkdir", b"/tmp/d")
    fd = files.open(b"/tmp/d")
    files.ask("rmdir", b"/tmp/d")
    assert files.fstat(fd).type == FOLDER_TYPE
    assert fails(errno.ENOENT, "mkdir", b"/tmp/d/e", of=files)
    files.ask("close", fd)


def test_a_listing_neither_misses_nor_repeats_what_stays_while_others_go(files: NativeFiles) -> None:
    names = [b"%04d" % k for k in range(500)]
    for name in names:
        files.ask("close", files.open(b"/tmp/" + name, CREATE | NEW, BOTH))
    fd, cookie, seen = files.open(b"/tmp"), 0, []
    while True:
        *pairs, end = files.ask("list", fd, 400, cookie)
        found = [bytes.fromhex(word) for word in pairs[::2]]
        seen += found
        if end == "end":
            break
        cookie = int(pairs[-1])
        for name in found:  # what was told goes, and something new comes
            if not name.startswith((b".", b"new")):
                files.ask("unlink", b"/tmp/" + name)
                files.ask("close", files.open(b"/tmp/new" + name, CREATE, BOTH))
    assert [name for name in seen if not name.startswith((b".", b"new"))] == names


@pytest.mark.threat("T-105")
def test_over_the_bytes_a_write_stops_where_room_ends_and_nothing_is_lost(files: NativeFiles) -> None:
    files.ask("limits", 100_000, 100)
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    written, data = 0, b"0123456789" * 1_000

    def fill() -> None:
        nonlocal written
        for _ in range(100):
            written += files.write(fd, data)

    with pytest.raises(OSError, match=r"ENOSPC|EFBIG"):
        fill()
    assert files.used()[0] <= 100_000
    assert files.pread(fd, 200_000, 0) == (data * 20)[:written]
    assert files.fstat(fd).size == written > 50_000
    files.ask("unlink", b"/tmp/f")
    files.ask("close", fd)
    other = files.open(b"/tmp/g", CREATE, BOTH)
    assert files.write(other, data) == len(data), "the room is there again"


@pytest.mark.threat("T-105")
@pytest.mark.parametrize("offset", [100_000, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 10])
def test_no_offset_makes_a_file_longer_than_may_be(files: NativeFiles, offset: int) -> None:
    files.ask("limits", 100_000, 100)
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    with pytest.raises(OSError, match="EFBIG"):
        files.pwrite(fd, b"x", offset)
    if offset > 100_000:
        assert fails(errno.EFBIG, "resize", fd, offset, of=files)
        assert fails(errno.EFBIG, "allocate", fd, offset, 1, of=files)
    assert files.fstat(fd).size == 0
    assert files.seek(fd, offset, 0) == offset
    assert files.read(fd, 10) == b""
    assert fails(errno.EFBIG, "write", fd, b"x", of=files)


def test_what_lies_before_the_start_of_a_file_is_refused(files: NativeFiles) -> None:
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    assert fails(errno.EINVAL, "seek", fd, -1, 0, of=files)
    assert fails(errno.EINVAL, "pread", fd, 1, -1, of=files)
    assert fails(errno.EINVAL, "pwrite", fd, b"x", -1, of=files)
    assert fails(errno.EINVAL, "resize", fd, -1, of=files)
    files.seek(fd, (1 << 63) - 1, 0)
    assert fails(errno.EOVERFLOW, "seek", fd, 1, 1, of=files)


@pytest.mark.threat("T-106")
def test_there_are_as_many_files_as_may_be_and_each_that_goes_makes_room(files: NativeFiles) -> None:
    files.ask("limits", 10_000_000, 1_000)
    for made in range(996):
        files.ask("mkdir", b"/tmp/%d" % made)
    assert fails(errno.ENOSPC, "mkdir", b"/tmp/996", of=files)
    assert files.used()[1] == 1_000
    assert len(files.list(b"/tmp")) == 996
    assert fails(errno.ENOSPC, "symlink", b"x", b"/tmp/link", of=files)
    files.ask("rmdir", b"/tmp/7")
    files.ask("symlink", b"x", b"/tmp/link")


@pytest.mark.threat("T-106")
def test_many_files_come_and_go_and_leave_nothing(files: NativeFiles) -> None:
    """Names are found, missed and removed at any number of them, and the folder's memory goes with them."""
    files.ask("limits", 10_000_000, 10_000)
    before = files.used()
    for generation in range(3):
        for k in range(3_000):
            files.ask("symlink", b"t", b"/tmp/%d-%d" % (generation, k))
        assert len(files.list(b"/tmp")) == 3_000
        for k in range(2_999, -1, -1):
            files.ask("unlink", b"/tmp/%d-%d" % (generation, k))
            assert k % 500 or fails(errno.ENOENT, "stat", 0, b"/tmp/%d-%d" % (generation, k), of=files)
    assert files.used() == before


@pytest.mark.threat("T-107")
@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"", errno.ENOENT),
        (b"a\0b", errno.EINVAL),
        (b"/tmp/\0", errno.EINVAL),
        (b"a" * 256, errno.ENAMETOOLONG),
        (b"/" * 4_096, errno.ENAMETOOLONG),
        (b"a/" * 3_000, errno.ENAMETOOLONG),
        (b"/tmp/absent/..", errno.ENOENT),
        (b"../" * 500 + b"absent", errno.ENOENT),
        (b"/tmp/../absent", errno.ENOENT),
    ],
)
def test_a_path_that_names_nothing_has_its_ordinary_error(
    files: NativeFiles, path: bytes, number: int
) -> None:
    for operation in ("stat 1", "unlink", "rmdir", "readlink"):
        assert fails(number, *operation.split(), path, of=files)
    assert fails(number, "rename", path, b"/tmp/to", of=files)
    assert fails(number, "open", 1, path, 0, READ, 0, of=files)
    assert files.used()[1] == 4


@pytest.mark.threat("T-107")
def test_the_longest_name_and_path_are_usable(files: NativeFiles) -> None:
    name = b"\xff" * 255  # no text, and a name all the same
    files.ask("mkdir", name)
    assert name in files.list(b"/")
    path = b"/./" * 1_364 + b"tmp"
    assert len(path) == 4_095
    assert files.stat(path).type == FOLDER_TYPE


@pytest.mark.threat("T-107")
def test_links_in_a_ring_end_and_forty_in_a_row_do_not(files: NativeFiles) -> None:
    files.ask("symlink", b"b", b"/tmp/a")
    files.ask("symlink", b"a", b"/tmp/b")
    files.ask("symlink", b"self/x", b"/tmp/self")
    for path in (b"/tmp/a", b"/tmp/a/", b"/tmp/b/c", b"/tmp/self"):
        assert fails(errno.ELOOP, "stat", 1, path, of=files)
    assert fails(errno.ELOOP, "open", 1, b"/tmp/a", CREATE, BOTH, 0, of=files)
    files.ask("close", files.open(b"/tmp/0", CREATE, BOTH))
    for k in range(41):
        files.ask("symlink", b"%d" % k, b"/tmp/%d" % (k + 1))
    assert files.stat(b"/tmp/40").id == files.stat(b"/tmp/0").id
    assert fails(errno.ELOOP, "stat", 1, b"/tmp/41", of=files)


@pytest.mark.threat("T-107")
def test_a_link_leads_wherever_it_says_and_never_above_the_root(files: NativeFiles) -> None:
    files.ask("symlink", b"/../../tmp/../out", b"/tmp/absolute")
    files.ask("symlink", b"../" * 9 + b"out/", b"/tmp/relative")
    for name in (b"absolute", b"relative"):
        assert files.stat(b"/tmp/" + name).id == files.stat(b"/out").id
        assert files.stat(b"/tmp/" + name + b"/..").id == files.stat(b"/").id


@pytest.mark.threat("T-107")
def test_a_folder_cannot_be_moved_into_itself(files: NativeFiles) -> None:
    for path in (b"/tmp/a", b"/tmp/a/b", b"/tmp/a/b/c"):
        files.ask("mkdir", path)
    files.ask("symlink", b"a/b/c", b"/tmp/way")
    for to in (b"/tmp/a/x", b"/tmp/a/b/c/x", b"/tmp/way/x"):
        assert fails(errno.EINVAL, "rename", b"/tmp/a", to, of=files)
    assert files.list(b"/tmp") == [b"a", b"way"]


@pytest.mark.threat("T-108")
def test_descriptors_run_out_in_order_and_come_back(files: NativeFiles) -> None:
    assert [files.open(b"/tmp") for _ in range(1_020)] == list(range(ROOT + 1, 1_024))
    assert fails(errno.EMFILE, "open", 1, b"/tmp", 0, READ, 0, of=files)
    assert fails(errno.EMFILE, "open", 1, b"/tmp/new", CREATE, BOTH, 0, of=files)
    files.ask("close", 77)
    assert files.open(b"/tmp/new", CREATE, BOTH) == 77
    for number in (-1, 1_024, 1 << 30, -(1 << 31)):
        assert fails(errno.EBADF, "close", number, of=files)
        assert fails(errno.EBADF, "fstat", number, of=files)


def test_a_number_moved_over_another_closes_that_one(files: NativeFiles) -> None:
    before = files.used()
    one, two = files.open(b"/tmp/a", CREATE, BOTH), files.open(b"/tmp/b", CREATE, BOTH)
    files.write(one, b"one")
    files.ask("unlink", b"/tmp/b")
    files.ask("renumber", one, two)
    assert files.pread(two, 10, 0) == b"one"
    assert fails(errno.EBADF, "pread", one, 1, 0, of=files)
    files.ask("renumber", two, two)
    files.ask("unlink", b"/tmp/a")
    files.ask("close", two)
    assert files.used() == before


def test_times_are_those_of_the_last_change_when_somebody_looks(files: NativeFiles) -> None:
    fd = files.open(b"/tmp/f", CREATE, BOTH)
    first = files.fstat(fd).modified_ns
    assert files.fstat(fd).modified_ns == first
    files.write(fd, b"x")
    second = files.stat(b"/tmp/f").modified_ns
    assert second > first
    files.ask("times", fd, 5)
    assert files.fstat(fd).modified_ns == 5
    files.write(fd, b"x")
    files.ask("close", fd)
    third = files.stat(b"/tmp/f").modified_ns
    assert third > second
    assert files.stat(b"/tmp").modified_ns < third


@pytest.mark.parametrize("flags", [0, CREATE])
def test_a_folder_is_not_opened_for_writing(files: NativeFiles, flags: int) -> None:
    assert fails(errno.EISDIR, "open", 1, b"/tmp", flags, BOTH, 0, of=files)


def _tree(files: NativeFiles, path: bytes = b"") -> list[bytes]:
    found = []
    for name in files.list(path or b"/"):
        found.append(path + b"/" + name)
        if files.stat(found[-1], follow=False).type == FOLDER_TYPE:
            found += _tree(files, found[-1])
    return found


@pytest.mark.threat("T-105")
@pytest.mark.parametrize("seed", range(6))
def test_whatever_finds_no_room_leaves_all_as_it_was(files: NativeFiles, seed: int) -> None:
    """Steps under limits that come and go: each happens or does not, and at the end nothing is lost."""
    chance = random.Random(seed)
    paths = [b"/tmp/" + name for name in (b"a", b"b", b"c", b"a/d", b"a/e" * 30, b"b/f", b"c/g/h")]
    before, opened = files.used(), []
    for _ in range(400):
        used, count = files.used()
        files.ask(
            "limits", used + chance.choice([0, 0, 30, 200, 5_000, 100_000]), count + chance.choice([0, 1, 9])
        )
        path, other = chance.choice(paths), chance.choice(paths)
        tree = _tree(files)
        step = chance.choice(
            ["mkdir", "open", "write", "symlink", "link", "rename", "unlink", "rmdir", "close"]
        )
        try:
            if step == "open":
                opened.append(files.open(path, CREATE, BOTH))
            elif step == "write" and opened:
                fd = chance.choice(opened)
                size, offset = files.fstat(fd).size, chance.choice([0, 100, 20_000, 70_000])
                written = files.pwrite(fd, b"x" * chance.choice([1, 500, 40_000]), offset)
                assert files.fstat(fd).size == max(size, offset + written)
            elif step == "close" and opened:
                files.ask("close", opened.pop(chance.randrange(len(opened))))
            elif step in ("symlink", "link", "rename"):
                files.ask(step, path, other)
            elif step in ("mkdir", "unlink", "rmdir"):
                files.ask(step, path)
        except OSError:
            assert _tree(files) == tree
    files.ask("limits", 1 << 30, 1_000)
    for fd in opened:
        files.ask("close", fd)
    for path in reversed(_tree(files, b"/tmp")):
        files.ask("rmdir" if files.stat(path, follow=False).type == FOLDER_TYPE else "unlink", path)
    assert files.used() == before


@pytest.mark.threat("T-272")
def test_what_is_fixed_is_read_and_neither_written_moved_nor_removed(files: NativeFiles) -> None:
    files.ask("mkdir", b"/tmp/p")
    files.write(files.open(b"/tmp/p/f", CREATE, BOTH), b"text")
    files.ask("mkdir", b"/tmp/p/empty")
    files.ask("symlink", b"f", b"/tmp/p/link")
    open_before = files.open(b"/tmp/p/f")
    files.ask("fix", b"/tmp/p")
    before = files.stat(b"/tmp/p"), files.stat(b"/tmp/p/f"), files.used()
    assert files.pread(open_before, 10, 0) == files.pread(files.open(b"/tmp/p/link"), 10, 0) == b"text"
    other = files.open(b"/tmp/other", CREATE | NEW, BOTH)
    for words in (
        ("open", 1, b"/tmp/p/f", 0, WRITE, 0),
        ("open", 1, b"/tmp/p/f", CUT, BOTH, 0),
        ("open", 1, b"/tmp/p/new", CREATE, BOTH, 0),
        ("mkdir", b"/tmp/p/new"),
        ("rmdir", b"/tmp/p/empty"),
        ("unlink", b"/tmp/p/f"),
        ("unlink", b"/tmp/p/link"),
        ("rename", b"/tmp/p", b"/tmp/q"),
        ("rename", b"/tmp/p/f", b"/tmp/f"),
        ("rename", b"/tmp/other", b"/tmp/p/f"),
        ("rename", b"/tmp/other", b"/tmp/p/new"),
        ("link", b"/tmp/p/f", b"/tmp/name"),
        ("link", b"/tmp/other", b"/tmp/p/name"),
        ("symlink", b"f", b"/tmp/p/more"),
        ("times", open_before, 5),
    ):
        assert fails(errno.EROFS, *words, of=files), words
    files.ask("close", open_before)
    files.ask("close", other)
    files.ask("unlink", b"/tmp/other")
    assert (files.stat(b"/tmp/p"), files.stat(b"/tmp/p/f")) == before[:2]
    assert files.used() == before[2]
