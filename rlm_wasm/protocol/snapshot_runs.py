"""A session's snapshot between processes: the pages it wrote, in a sealed memory file.

    runs x (offset, length)       two 64-bit numbers, little-endian, in order, page-aligned
    the pages of each run         one after another

Whoever reads one takes nothing for granted: the process that wrote it may have been taken over. It
is read with plain reads and never mapped by the host.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from rlm_wasm.errors import ArtifactError
from rlm_wasm.system.memfd import MemoryFile, check_sealed

_RUN: Final = struct.Struct("<QQ")
_PAGE: Final = 4_096
Runs = tuple[tuple[int, bytes], ...]


def write_runs(runs: Runs, into: MemoryFile | None = None) -> MemoryFile:
    """Return a sealed file of these pages: one of its own, or `into`, a blank one."""

    def parts() -> Iterator[tuple[int, memoryview]]:
        table = b"".join(_RUN.pack(offset, len(data)) for offset, data in runs)
        yield 0, memoryview(table)
        at = len(table)
        for _, data in runs:
            yield at, memoryview(data)
            at += len(data)

    size = sum(_RUN.size + len(data) for _, data in runs)
    if into is None:
        return MemoryFile.of_parts("rlm-runs", size, parts())
    into.fill(size, parts())
    into.seal()
    return into


def file_bytes_max(memory_bytes: int) -> int:
    """Return what a snapshot of a memory of so many bytes takes at most."""
    return memory_bytes + memory_bytes // _PAGE * _RUN.size


def check_file(fd: int, count: int, size: int) -> None:
    """Check that a file from another process is a snapshot of so many runs that nobody can change any more.

    Raises:
        ArtifactError: it is not.
    """
    check_sealed(fd)
    _table(fd, count, size)


def read_runs(fd: int, count: int, size: int) -> Runs:
    """Return the pages in a file of `count` runs, for a memory of `size` bytes.

    Raises:
        ArtifactError: the file does not hold what it should.
    """
    runs = []
    at = _RUN.size * count
    for offset, length in _table(fd, count, size):
        runs.append((offset, _read(fd, length, at)))
        at += length
    return tuple(runs)


def _table(fd: int, count: int, size: int) -> list[tuple[int, int]]:
    total = os.fstat(fd).st_size
    table = _RUN.size * count
    if count > size // _PAGE or total < table or total > table + size:
        raise ArtifactError("a snapshot is longer or shorter than it says")
    entries = list(_RUN.iter_unpack(_read(fd, table, 0)))
    at, end = table, 0
    for offset, length in entries:
        if offset % _PAGE or length % _PAGE or length == 0 or offset < end or offset + length > size:
            raise ArtifactError("a snapshot has a run outside its memory")
        at += length
        end = offset + length
    if at != total:
        raise ArtifactError("a snapshot is longer or shorter than it says")
    return entries


def _read(fd: int, length: int, offset: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = os.pread(fd, length - len(data), offset + len(data))
        if not piece:
            raise ArtifactError("a snapshot is shorter than it says")
        data += piece
    return bytes(data)


_numbers: Final = itertools.count(1)


def next_snapshot_number() -> int:
    """Return a number that no snapshot of this process has had."""
    return next(_numbers)


@dataclass(frozen=True)
class WorkerSnapshot:
    """The state of one session of a worker process: a `SessionSnapshot` that belongs to one tenant.

    `number` names it to workers, which may keep it.
    """

    number: int
    tenant: str
    size: int
    virtual_ns: int
    runs: int
    file: MemoryFile

    @classmethod
    def of_runs(cls, runs: Runs, *, tenant: str, size: int, virtual_ns: int) -> Self:
        """Return a snapshot of these pages, for example of a file that was saved."""
        return cls(next_snapshot_number(), tenant, size, virtual_ns, len(runs), write_runs(runs))

    @property
    def bytes_held(self) -> int:
        """The memory that the pages of this snapshot take."""
        return os.fstat(self.file.fd).st_size

    def flattened(self) -> Runs:
        """Return the pages over the guest's base image. Raises ArtifactError if the worker lied."""
        return read_runs(self.file.fd, self.runs, self.size)
