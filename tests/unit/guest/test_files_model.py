"""The guest's files against those of this machine's kernel: the same steps, the same outcome."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.support.native_files import (
    CREATE,
    CUT,
    FILE_TYPE,
    FOLDER_TYPE,
    LINK_TYPE,
    NEW,
    READ,
    WRITE,
    NativeFiles,
)

NAMES = (b"a", b"b", b"c", b"d", b"long" * 20)
# A path goes up only from where it went down, and no link goes up: so none leaves the kernel's folder.
_PLAIN = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
PATHS = st.one_of(
    _PLAIN,
    _PLAIN,
    st.tuples(_PLAIN, st.sampled_from([b"/", b"//", b"/.", b"/../b", b"/../c/d", b"/./a"])).map(b"".join),
)
OFFSETS = st.one_of(st.integers(0, 300), st.integers(16_000, 17_000), st.integers(30_000, 200_000))
DATA = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.binary(min_size=1, max_size=7), st.integers(1, 20_000)).map(lambda two: two[0] * two[1]),
).map(lambda data: data[:40_000])
# Which of several things is wrong with a path is told first differs between kernels too.
_ALIKE = (
    {errno.EINVAL, errno.ENOTEMPTY, errno.EBUSY},
    {errno.EISDIR, errno.EEXIST},
    {errno.ENOTDIR, errno.EISDIR},
)


class Twins(RuleBasedStateMachine):
    """Two trees, one of the guest's code and one of the kernel's."""

    driver: Path

    def __init__(self) -> None:
        super().__init__()
        self.files = NativeFiles(self.driver)
        self.folder = tempfile.mkdtemp(prefix="twins-")
        self.root = os.open(self.folder, os.O_RDONLY)
        for path in (b"/tmp", b"/out", b"/inputs"):
            self.files.ask("rmdir", path)
        # (the guest's number, the kernel's)
        self.open: list[tuple[int, int]] = []

    def teardown(self) -> None:
        for mine, theirs in self.open:
            self.files.ask("close", mine)
            os.close(theirs)
        self.trees_are_alike()
        for name in self.files.list(b"/"):
            self._remove(name)
        size, count = self.files.used()
        self.files.close()
        os.close(self.root)
        shutil.rmtree(self.folder)
        assert count == 1, "only the root is left"
        assert size < 512, "and no memory is lost"

    def _remove(self, path: bytes) -> None:
        if self.files.stat(path, follow=False).type != FOLDER_TYPE:
            self.files.ask("unlink", path)
            return
        for name in self.files.list(path):
            self._remove(path + b"/" + name)
        self.files.ask("rmdir", path)

    def both(self, mine: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Do both; None if both failed, in the same way."""
        problems: list[OSError | None] = []
        values = []
        for act in (theirs, mine):
            try:
                values.append(act())
                problems.append(None)
            except OSError as error:
                problems.append(error)
        expected, got = problems
        if expected is None and got is None:
            return values[1], values[0]
        assert expected is not None, f"failed here only: {got}"
        assert got is not None, f"failed for the kernel only: {expected}"
        pair = {expected.errno, got.errno}
        assert len(pair) == 1 or any(pair <= group for group in _ALIKE), f"{expected} is {got} here"
        return None

    @rule(
        path=PATHS, create=st.booleans(), new=st.booleans(), cut=st.booleans(), writes=st.booleans(),
        appends=st.booleans(), follow=st.booleans(),
    )  # fmt: skip
    def open_file(
        self, path: bytes, create: bool, new: bool, cut: bool, writes: bool, appends: bool, follow: bool
    ) -> None:
        cut &= writes
        new &= create
        flags = CREATE * create | NEW * new | CUT * cut
        kernel = os.O_RDWR if writes else os.O_RDONLY
        kernel |= os.O_CREAT * create | os.O_EXCL * new | os.O_TRUNC * cut | os.O_APPEND * appends
        kernel |= os.O_NOFOLLOW * (not follow)
        rights = READ | (WRITE if writes else 0)
        opened = self.both(
            lambda: self.files.open(path, flags, rights, appends=appends, follow=follow),
            lambda: os.open(path, kernel, 0o644, dir_fd=self.root),
        )
        if opened is not None:
            self.open.append(opened)
            if len(self.open) > 6:
                self.close_file(self.open[0])

    def close_file(self, pair: tuple[int, int]) -> None:
        self.open.remove(pair)
        self.files.ask("close", pair[0])
        os.close(pair[1])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        self.close_file(data.draw(st.sampled_from(self.open)))

    def use(self, data: st.DataObject, mine: Callable[[int], Any], theirs: Callable[[int], Any]) -> None:
        first, second = data.draw(st.sampled_from(self.open))
        done = self.both(lambda: mine(first), lambda: theirs(second))
        assert done is None or done[0] == done[1]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), what=DATA)
    def write(self, data: st.DataObject, what: bytes) -> None:
        self.use(data, lambda fd: self.files.write(fd, what), lambda fd: os.write(fd, what))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), what=DATA, offset=OFFSETS)
    def write_at(self, data: st.DataObject, what: bytes, offset: int) -> None:
        mine, theirs = data.draw(st.sampled_from(self.open))
        if fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_APPEND:
            return  # Linux writes at the end then, whatever the offset
        done = self.both(
            lambda: self.files.pwrite(mine, what, offset), lambda: os.pwrite(theirs, what, offset)
        )
        assert done is None or done[0] == done[1]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(0, 60_000))
    def read(self, data: st.DataObject, count: int) -> None:
        self.use(data, lambda fd: self.files.read(fd, count), lambda fd: os.read(fd, count))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), count=st.integers(0, 60_000), offset=OFFSETS)
    def read_at(self, data: st.DataObject, count: int, offset: int) -> None:
        self.use(data, lambda fd: self.files.pread(fd, count, offset), lambda fd: os.pread(fd, count, offset))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), offset=st.integers(-300, 70_000), whence=st.integers(0, 2))
    def seek(self, data: st.DataObject, offset: int, whence: int) -> None:
        mine, theirs = data.draw(st.sampled_from(self.open))
        if self.files.fstat(mine).type == FILE_TYPE:
            done = self.both(
                lambda: self.files.seek(mine, offset, whence), lambda: os.lseek(theirs, offset, whence)
            )
            assert done is None or done[0] == done[1]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), size=OFFSETS)
    def resize(self, data: st.DataObject, size: int) -> None:
        mine, theirs = data.draw(st.sampled_from(self.open))
        if self.files.fstat(mine).type == FILE_TYPE:
            self.both(lambda: self.files.ask("resize", mine, size), lambda: os.ftruncate(theirs, size))

    @rule(path=PATHS)
    def mkdir(self, path: bytes) -> None:
        self.both(lambda: self.files.ask("mkdir", path), lambda: os.mkdir(path, dir_fd=self.root))

    @rule(path=PATHS)
    def rmdir(self, path: bytes) -> None:
        self.both(lambda: self.files.ask("rmdir", path), lambda: os.rmdir(path, dir_fd=self.root))

    @rule(path=PATHS)
    def unlink(self, path: bytes) -> None:
        self.both(lambda: self.files.ask("unlink", path), lambda: os.unlink(path, dir_fd=self.root))

    @rule(path=PATHS, to=PATHS)
    def rename(self, path: bytes, to: bytes) -> None:
        self.both(
            lambda: self.files.ask("rename", path, to),
            lambda: os.rename(path, to, src_dir_fd=self.root, dst_dir_fd=self.root),
        )

    @rule(path=PATHS, to=PATHS)
    def link(self, path: bytes, to: bytes) -> None:
        self.both(
            lambda: self.files.ask("link", path, to),
            lambda: os.link(path, to, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False),
        )

    @rule(leads_to=_PLAIN, path=PATHS)
    def symlink(self, leads_to: bytes, path: bytes) -> None:
        self.both(
            lambda: self.files.ask("symlink", leads_to, path),
            lambda: os.symlink(leads_to, path, dir_fd=self.root),
        )

    @rule(path=PATHS)
    def readlink(self, path: bytes) -> None:
        done = self.both(
            lambda: self.files.ask("readlink", path)[0], lambda: os.readlink(path, dir_fd=self.root).hex()
        )
        assert done is None or done[0] == done[1]

    @rule(path=PATHS, follow=st.booleans())
    def stat(self, path: bytes, follow: bool) -> None:
        done = self.both(
            lambda: self.files.stat(path, follow=follow),
            lambda: os.stat(path, dir_fd=self.root, follow_symlinks=follow),
        )
        if done is not None:
            mine, theirs = done
            assert mine.type == _type(theirs.st_mode)
            if mine.type != FOLDER_TYPE:
                assert (mine.size, mine.names) == (theirs.st_size, theirs.st_nlink)

    @rule()
    def trees_are_alike(self) -> None:
        assert dict(self._tree(b"")) == dict(_kernel_tree(self.folder.encode(), b""))

    def _tree(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        for name in self.files.list(path or b"/", 64 + 256):
            inner = path + b"/" + name
            kind = self.files.stat(inner, follow=False).type
            yield inner, kind
            if kind == FOLDER_TYPE:
                yield from self._tree(inner)


def _type(mode: int) -> int:
    return {0o4: FOLDER_TYPE, 0o10: FILE_TYPE, 0o12: LINK_TYPE}[mode >> 12]


def _kernel_tree(folder: bytes, path: bytes) -> Iterator[tuple[bytes, int]]:
    for entry in os.scandir(folder + path):
        inner = path + b"/" + entry.name
        yield inner, _type(entry.stat(follow_symlinks=False).st_mode)
        if entry.is_dir(follow_symlinks=False):
            yield from _kernel_tree(folder, inner)


def test_any_steps_have_the_outcome_that_they_have_on_a_kernel(native_files: Path) -> None:
    """Every operation, in any order, over names that collide: the same success, error, bytes and tree."""

    class Machine(Twins):
        driver = native_files

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )
