"""Sealed memory files: what guest memory is mapped from and native code is loaded from.

After sealing, nobody who holds the descriptor, a compromised worker included, can change or
resize the contents.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from typing import Final

from rlm_wasm.errors import ArtifactError

_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034
ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
_CHUNK_BYTES: Final = 1 << 16
_ZEROS: Final = bytes(_CHUNK_BYTES)


def sealed_memfd(name: str, data: bytes | bytearray | memoryview) -> int:
    """Return a descriptor of a memory file holding `data`, sealed against every change.

    Blocks of zeros stay holes, so that they cost no memory. The caller closes the descriptor.
    """
    view = memoryview(data).cast("B")
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, len(view))
        for offset, length in _runs(view):
            _write_all(fd, view[offset : offset + length], offset)
        fcntl.fcntl(fd, _F_ADD_SEALS, ALL_SEALS)
        if fcntl.fcntl(fd, _F_GET_SEALS) & ALL_SEALS != ALL_SEALS:
            raise ArtifactError(f"the memory file {name} could not be sealed")
    except BaseException:
        os.close(fd)
        raise
    return fd


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
