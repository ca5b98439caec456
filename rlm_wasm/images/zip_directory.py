"""The list of files at the end of a zip archive, measured and counted before anything is made of its entries.

`zipfile` makes an object of each entry when it opens an archive, and an entry takes 47 bytes there.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Final

from rlm_wasm.errors import GuestBuildError

# What an entry takes at most, on average: its name, and what archivers add.
_ENTRY_BYTES: Final = 512
_END, _END_BYTES, _COMMENT_BYTES_MAX = b"PK\5\6", 22, 1 << 16
_LARGE, _LARGE_BYTES = b"PK\6\7", 20
_ENTRY, _HEADER_BYTES = b"PK\1\2", 46


def require_few_files(stream: BinaryIO, file: str, files_max: int) -> None:
    """Raise GuestBuildError unless `zipfile` will find at most `files_max` entries, of a usual size, here.

    Where the list lies is looked up as `zipfile` does it, so that both see the same or nothing does.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _COMMENT_BYTES_MAX - _END_BYTES - _LARGE_BYTES))
    tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise GuestBuildError(f"{file} is damaged: it does not end as a wheel does")
    if tail.startswith(_LARGE, max(0, at - _LARGE_BYTES)):
        raise GuestBuildError(f"{file} is unsafe: it is made for more files than a wheel has")
    (length,) = struct.unpack_from("<I", tail, at + 12)
    start = size - len(tail) + at - length
    if length > files_max * _ENTRY_BYTES:
        raise GuestBuildError(f"{file} has too long a list of files: at most {files_max} are allowed")
    if start < 0:
        raise GuestBuildError(f"{file} is damaged: its list of files is longer than itself")
    stream.seek(start)
    _count(stream.read(length), file, files_max)


def _count(directory: bytes, file: str, files_max: int) -> None:
    place = count = 0
    while place < len(directory):
        if len(directory) - place < _HEADER_BYTES or not directory.startswith(_ENTRY, place):
            raise GuestBuildError(f"{file} is damaged: its list of files cannot be read")
        if (count := count + 1) > files_max:
            raise GuestBuildError(
                f"{file} holds more files than a wheel may: at most {files_max} are allowed"
            )
        place += _HEADER_BYTES + sum(struct.unpack_from("<3H", directory, place + 28))
