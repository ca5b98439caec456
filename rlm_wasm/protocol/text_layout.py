"""The layout of a str or bytes of the host in the guest, and its bytes in pieces, without a second copy.

CPython stores a str with 1, 2 or 4 bytes a character, by its widest one (PEP 393). The host writes
exactly that layout, so the class must be the smallest that fits: CPython compares and hashes by it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from rlm_wasm.system.memfd import MemoryFile

CHUNK_UNITS: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Encoding:
    """A layout: the codec that makes it, its bytes for a character, CPython's class of it."""

    codec: str
    bytes_per_unit: int
    max_char: int


ASCII: Final = Encoding("ascii", 1, 0x7F)
LATIN_1: Final = Encoding("latin-1", 1, 0xFF)
UCS_2: Final = Encoding("utf-16-le", 2, 0xFFFF)
UCS_4: Final = Encoding("utf-32-le", 4, 0x10FFFF)

_as_utf8 = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
_as_utf8.restype = ctypes.c_void_p
_as_utf8.argtypes = [ctypes.py_object, ctypes.POINTER(ctypes.c_ssize_t)]
_as_bytes = ctypes.pythonapi.PyBytes_AsString
_as_bytes.restype = ctypes.c_void_p
_as_bytes.argtypes = [ctypes.py_object]


def encoding_of(value: str | bytes) -> Encoding:
    """Return the smallest layout that holds `value`; bytes count as one byte a unit."""
    if isinstance(value, bytes) or value.isascii():
        return ASCII
    widest = LATIN_1
    for start in range(0, len(value), CHUNK_UNITS):
        part = value[start : start + CHUNK_UNITS]
        if len(part.encode("utf-16-le", "surrogatepass")) > 2 * len(part):
            return UCS_4
        if widest is LATIN_1:
            try:
                part.encode("latin-1")
            except UnicodeEncodeError:
                widest = UCS_2
    return widest


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A value laid out already: `read(offset, length)` gives its bytes, maybe in `file`."""

    is_text: bool
    units: int
    encoding: Encoding
    read: Callable[[int, int], bytes]
    file: MemoryFile | None = None
    is_json: bool = False

    @classmethod
    def of(cls, value: str | bytes, encoding: Encoding, *, file_from_bytes: int) -> Self:
        """Lay out a value: in a sealed memory file of its own from so many bytes, else in one piece."""
        size = len(value) * encoding.bytes_per_unit
        is_text = isinstance(value, str)
        if size < file_from_bytes:
            data = b"".join(pieces(value, encoding))
            return cls(is_text, len(value), encoding, lambda offset, length: data[offset : offset + length])

        def parts() -> Iterator[tuple[int, memoryview]]:
            at = 0
            for piece in pieces(value, encoding):
                yield at, memoryview(piece)
                at += len(piece)

        return cls.in_file(is_text, len(value), encoding, _file(size, parts()))

    @classmethod
    def in_file(cls, is_text: bool, units: int, encoding: Encoding, file: MemoryFile) -> Self:
        """Return the value that a file holds; it is read with plain reads and not mapped."""
        return cls(is_text, units, encoding, lambda offset, length: os.pread(file.fd, length, offset), file)

    def __len__(self) -> int:
        return self.units


def _file(size: int, parts: Iterator[tuple[int, memoryview]]) -> MemoryFile:
    # For another process, which may keep it; its contents are taken back when they have been read.
    return MemoryFile.of_parts("rlm-value", size, parts, revocable=True)


def pieces(value: str | bytes, encoding: Encoding) -> Iterator[bytes]:
    """Yield the laid-out value in pieces, each of its own."""
    for start in range(0, len(value), CHUNK_UNITS):
        part = value[start : start + CHUNK_UNITS]
        yield part if isinstance(part, bytes) else part.encode(encoding.codec, _errors(encoding))


def _errors(encoding: Encoding) -> str:
    return "surrogatepass" if encoding in (UCS_2, UCS_4) else "strict"


def chunks(value: str | bytes | LaidOut, encoding: Encoding) -> Iterator[tuple[int, int, object]]:
    """Yield (address, length, owner) pieces of the laid-out value; the address lives as long as the owner.

    ASCII text and bytes are read in place; other text is encoded a piece at a time.
    """
    if isinstance(value, LaidOut):
        size = value.units * encoding.bytes_per_unit
        for start in range(0, size, CHUNK_UNITS):
            piece = value.read(start, min(CHUNK_UNITS, size - start))
            if len(piece) != min(CHUNK_UNITS, size - start):
                raise ValueError("a value is shorter than it says")
            yield _in_place(piece), len(piece), piece
        return
    if encoding is ASCII:
        address = _in_place(value)
        for start in range(0, len(value), CHUNK_UNITS):
            yield address + start, min(CHUNK_UNITS, len(value) - start), value
        return
    assert isinstance(value, str)
    for start in range(0, len(value), CHUNK_UNITS):
        part = value[start : start + CHUNK_UNITS].encode(encoding.codec, _errors(encoding))
        yield _in_place(part), len(part), part


def _in_place(value: str | bytes) -> int:
    """Return the address of an ASCII str's or a bytes object's contents, which CPython never moves."""
    if isinstance(value, bytes):
        return int(_as_bytes(value))
    size = ctypes.c_ssize_t()
    address = int(_as_utf8(value, ctypes.byref(size)))
    if size.value != len(value):
        raise ValueError("not an ASCII str")
    return address
