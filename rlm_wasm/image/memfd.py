"""Sealed memory files: what guest memory is mapped from and native code is loaded from.

After sealing, nobody who holds the descriptor, a compromised worker included, can change or
resize the contents.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Final, Self

from rlm_wasm.errors import ArtifactError

_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034
ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
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


class MemoryFile:
    """A sealed memory file whose descriptor is open for as long as this object lives.

    Mappings of it live on without the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        # Not when the interpreter ends: the kernel does it then, and a guest may still be over it.
        weakref.finalize(self, os.close, fd).atexit = False

    @classmethod
    def of(cls, name: str, data: bytes | bytearray) -> Self:
        """Return a sealed file of `data`."""
        return cls(sealed_memfd(name, data))

    @classmethod
    def of_parts(cls, name: str, size: int, parts: Iterable[tuple[int, memoryview]]) -> Self:
        """Return a sealed file of `size` bytes: (offset, contents) each; the rest is zero."""
        return cls(_filled(name, size, parts))

    @classmethod
    def draft(cls, name: str, size: int) -> Draft:
        """Return a file of `size` zeros to be written piece by piece, and then sealed."""
        return Draft(name, size)

    @classmethod
    def over(cls, below: int, size: int, runs: Iterable[tuple[int, bytes]]) -> Self:
        """Return a sealed file of `size` bytes: the file `below`, with `runs` written over it."""

        def parts() -> Iterator[tuple[int, memoryview]]:
            for offset, length in _data_ranges(below):
                yield offset, memoryview(os.pread(below, length, offset))
            for offset, data in runs:
                yield offset, memoryview(data)

        return cls(_filled("rlm-snapshot", size, parts()))


class Draft:
    """A memory file that is still being written. Whoever made it closes it, sealed or not."""

    def __init__(self, name: str, size: int) -> None:
        self._name: Final = name
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, size)
        except BaseException:
            self.close()
            raise

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data` at `offset`."""
        _write_all(self._fd, data, offset)

    def seal(self) -> MemoryFile:
        """Return the file, sealed against every change."""
        _seal(self._fd, self._name)
        fd, self._fd = self._fd, -1
        return MemoryFile(fd)

    def close(self) -> None:
        """Free it, unless it was sealed. Safe to call again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _filled(name: str, size: int, parts: Iterable[tuple[int, memoryview]]) -> int:
    """Return a sealed memory file of `size` bytes with `parts` written in order; the rest is zero."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        for offset, part in parts:
            if offset + len(part) > size:
                raise ArtifactError(f"the memory file {name} is too small for its contents")
            _write_all(fd, part, offset)
        _seal(fd, name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _seal(fd: int, name: str) -> None:
    fcntl.fcntl(fd, _F_ADD_SEALS, ALL_SEALS)
    if fcntl.fcntl(fd, _F_GET_SEALS) & ALL_SEALS != ALL_SEALS:
        raise ArtifactError(f"the memory file {name} could not be sealed")


def _data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is not a hole, in pieces of at most 1 MiB."""
    end = os.fstat(fd).st_size
    offset = 0
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
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
