"""Sealed memory files: what guest memory is mapped from and native code is loaded from.

After sealing, nobody who holds the descriptor, a compromised worker included, can change or
resize the contents.

A process that may make none makes parts of one file that was lent to it, its arena. Whoever lent it sees what
they all take, which nothing else shows: one mapped page keeps a whole file, without a descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Final, Protocol, Self

from rlm_wasm.errors import ArtifactError

_F_ADD_SEALS: Final = 1033
# The kernel waits up to 150 ms for its own uses of a page each time (mm/memfd.c).
_SEAL_TRIES: Final = 10
_F_GET_SEALS: Final = 1034
_SEAL, _SHRINK, _GROW, _WRITE = 0x1, 0x2, 0x4, 0x8
ALL_SEALS: Final = _SEAL | _SHRINK | _GROW | _WRITE
# Nobody can make it larger or write to it; whoever made it can take its contents back.
_REVOCABLE_SEALS: Final = _SEAL | _GROW | _WRITE
# Offsets of an arena are used once: more than any worker comes to. What is not written takes no memory.
ARENA_BYTES: Final = 1 << 50
_PART_BYTES: Final = 1 << 16
_PUNCH_HOLE_KEEP_SIZE: Final = 0x2 | 0x1
_CHUNK_BYTES: Final = 1 << 16
_COPY_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK_BYTES)


def sealed_memfd(name: str, data: bytes | bytearray | memoryview) -> int:
    """Return a descriptor of a memory file holding `data`, sealed against every change.

    Blocks of zeros stay holes, so that they cost no memory. The caller closes the descriptor.
    """
    view = memoryview(data).cast("B")
    return _filled(name, len(view), ((offset, view[offset : offset + n]) for offset, n in _runs(view)))


def check_sealed(fd: int) -> None:
    """Check that `fd` is a memory file sealed against every change.

    Raises:
        ArtifactError: it is another kind of file, or a seal is missing.
    """
    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        raise ArtifactError(f"not a memory file: {error.strerror}") from error
    if seals & ALL_SEALS != ALL_SEALS:
        raise ArtifactError("a memory file is not sealed")


_fallocate: Final = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class Arena:
    """One file of which others are parts. Each has offsets of its own, for good, that are freed with it."""

    def __init__(self, file: MemoryFile) -> None:
        self._file: Final = file
        self._next = 0

    def take(self, size: int) -> tuple[int, int]:
        """Return the descriptor and where the part begins. Raises OSError: it is used up."""
        base = self._next
        if base + size > os.fstat(self._file.fd).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._next += -(-size // _PART_BYTES) * _PART_BYTES
        return self._file.fd, base

    def free(self, base: int, size: int) -> None:
        """Free what a part holds. No memory may have it mapped any more."""
        if _fallocate(self._file.fd, _PUNCH_HOLE_KEEP_SIZE, base, size) != 0:
            raise OSError(ctypes.get_errno(), "a part of an arena could not be freed")


_may_make_files = True
_arena: Arena | None = None


def make_no_files() -> None:
    """From now on this process makes no memory file: until it has an arena there is no room for any."""
    global _may_make_files
    _may_make_files = False


def use_arena(file: MemoryFile | None) -> None:
    """From now on memory files are parts of `file`; None: they are files of their own again."""
    global _arena
    _arena = None if file is None else Arena(file)


class MemoryFile:
    """A sealed memory file whose descriptor is open for as long as this object lives.

    Mappings of it live on without the descriptor. `base` is where its contents begin.
    """

    base = 0

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        # Not when the interpreter ends: the kernel does it then, and a guest may still be over it.
        weakref.finalize(self, os.close, fd).atexit = False

    @classmethod
    def of(cls, name: str, data: bytes | bytearray) -> Self:
        """Return a sealed file of `data`."""
        return cls(sealed_memfd(name, data))

    @classmethod
    def of_parts(
        cls, name: str, size: int, parts: Iterable[tuple[int, memoryview]], *, revocable: bool = False
    ) -> Self:
        """Return a sealed file of `size` bytes: (offset, contents) each; the rest is zero.

        `revocable`: its contents can be taken back.
        """
        return cls(_filled(name, size, parts, _REVOCABLE_SEALS if revocable else ALL_SEALS))

    @classmethod
    def blank(cls, name: str, size: int, *, may_be_sealed: bool) -> Self:
        """Return an empty file for somebody else to fill, who can make it no larger than `size`.

        Its contents can be taken back; not once the holder has sealed it, where that may be. Where this
        process may have no file so large, it is as large as it may be.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, min(size, _largest()))
            fcntl.fcntl(fd, _F_ADD_SEALS, _GROW if may_be_sealed else _GROW | _SEAL)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def fill(self, size: int, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Write (offset, contents) each into a blank file, and cut it to `size`."""
        os.ftruncate(self.fd, size)
        for offset, part in parts:
            _write_all(self.fd, part, offset)

    def seal(self) -> None:
        """Let nobody change the file any more, its holder included."""
        _add_seals(self.fd, ALL_SEALS)

    def take_back(self) -> None:
        """Free what a lent file holds, whoever still has a descriptor or a mapping of it.

        Raises:
            PermissionError: its holder has sealed it.
        """
        os.ftruncate(self.fd, 0)

    @property
    def bytes_held(self) -> int:
        """The memory that the file takes; holes take none."""
        return os.fstat(self.fd).st_blocks * 512

    @classmethod
    def draft(cls, name: str, size: int) -> Draft:
        """Return a file of `size` zeros to be written piece by piece, and then sealed."""
        return Draft(name, size)

    @classmethod
    def over(cls, below: Below, size: int, runs: Iterable[tuple[int, bytes]]) -> MemoryFile:
        """Return a sealed file of `size` bytes: what is `below`, with `runs` written over it."""
        with closing(Draft("rlm-snapshot", size)) as draft:
            for offset, length in _data_ranges(below.fd, below.base, below.file_bytes):
                draft.write(memoryview(os.pread(below.fd, length, below.base + offset)), offset)
            for offset, data in runs:
                draft.write(memoryview(data), offset)
            return draft.seal()


class Below(Protocol):
    """Contents of a file: so many bytes from `base` on."""

    @property
    def fd(self) -> int:
        """Its descriptor."""

    @property
    def base(self) -> int:
        """Where they begin."""

    @property
    def file_bytes(self) -> int:
        """How many there are."""


class _Part(MemoryFile):
    """A part of an arena, freed with this object: who maps it keeps the object."""

    def __init__(self, arena: Arena, fd: int, base: int, size: int, written: int) -> None:
        self.fd = fd  # type: ignore[misc]
        self.base = base
        self._written = written
        weakref.finalize(self, arena.free, base, size).atexit = False

    @property
    def bytes_held(self) -> int:
        """What was written into it."""
        return self._written


class Draft:
    """A memory file that is still being written. Whoever made it closes it, sealed or not."""

    def __init__(self, name: str, size: int) -> None:
        self._name: Final = name
        self._size: Final = size
        self._arena = _arena
        self._base = self._written = 0
        if _arena is not None:
            self._fd, self._base = _arena.take(size)
            return
        if not _may_make_files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _make_room(self._fd, size)
        except BaseException:
            self.close()
            raise

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data` at `offset`."""
        if offset + len(data) > self._size:
            raise ArtifactError(f"the memory file {self._name} is too small for its contents")
        self._written += len(data)
        _write_all(self._fd, data, self._base + offset)

    def seal(self) -> MemoryFile:
        """Return the file, sealed against every change; a part of an arena is this process's own."""
        fd, self._fd = self._fd, -1
        if self._arena is not None:
            return _Part(self._arena, fd, self._base, self._size, self._written)
        try:
            _seal(fd, self._name)
        except BaseException:
            os.close(fd)
            raise
        return MemoryFile(fd)

    def close(self) -> None:
        """Free it, unless it was sealed. Safe to call again."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._arena is not None:
            self._arena.free(self._base, self._size)
        else:
            os.close(fd)


def _largest() -> int:
    """Return how large a file of this process may be."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return ARENA_BYTES if limit == resource.RLIM_INFINITY else min(limit, ARENA_BYTES)


def _make_room(fd: int, size: int) -> None:
    """Give a new file its size. Looked at before: to ask for too much is a signal, which may end it."""
    if size > _largest():
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    os.ftruncate(fd, size)


def _filled(name: str, size: int, parts: Iterable[tuple[int, memoryview]], seals: int = ALL_SEALS) -> int:
    """Return a sealed memory file of `size` bytes with `parts` written in order; the rest is zero."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _make_room(fd, size)
        for offset, part in parts:
            if offset + len(part) > size:
                raise ArtifactError(f"the memory file {name} is too small for its contents")
            _write_all(fd, part, offset)
        _seal(fd, name, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _add_seals(fd: int, seals: int) -> None:
    """Seal a file that nobody maps.

    The kernel refuses with EBUSY while it uses a page of it for itself, as to move it: it waits a moment by
    itself, and each try here gives it another.
    """
    for left in reversed(range(_SEAL_TRIES)):
        try:
            fcntl.fcntl(fd, _F_ADD_SEALS, seals)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise


def _seal(fd: int, name: str, seals: int = ALL_SEALS) -> None:
    _add_seals(fd, seals)
    if fcntl.fcntl(fd, _F_GET_SEALS) & seals != seals:
        raise ArtifactError(f"the memory file {name} could not be sealed")


def _data_ranges(fd: int, base: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is not a hole, from `base` to `end` bytes on, by 1 MiB at most."""
    offset = 0
    while offset < end:
        try:
            offset = os.lseek(fd, base + offset, os.SEEK_DATA) - base
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        hole = min(os.lseek(fd, base + offset, os.SEEK_HOLE) - base, end) if offset < end else end
        while offset < hole:
            length = min(_COPY_BYTES, hole - offset)
            yield offset, length
            offset += length


def _runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the stretches that are not all zero, in blocks of 64 KiB."""
    start = -1
    for offset in range(0, len(view), _CHUNK_BYTES):
        # As bytes: comparing memoryviews goes element by element.
        block = view[offset : offset + _CHUNK_BYTES].tobytes()
        empty = block == (_ZEROS if len(block) == _CHUNK_BYTES else _ZEROS[: len(block)])
        if not empty and start < 0:
            start = offset
        elif empty and start >= 0:
            yield start, offset - start
            start = -1
    if start >= 0:
        yield start, len(view) - start


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
