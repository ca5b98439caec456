"""A reader of the WebAssembly binary format, as far as we need it: sections, imports, exports, data.

Format: WebAssembly Core Specification 2.0, chapter 5. Input is our own build's output, yet every
read is bounds-checked, since `guest verify` runs this over whatever lies in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import ArtifactError

_MAGIC: Final = b"\0asm\x01\0\0\0"
_CUSTOM, _IMPORT, _MEMORY, _EXPORT, _DATA, _DATA_COUNT = 0, 2, 5, 7, 11, 12
_KINDS: Final = {0: "func", 1: "table", 2: "memory", 3: "global"}
_I32_CONST, _END = 0x41, 0x0B


@dataclass(frozen=True, slots=True)
class DataSegment:
    """Bytes that instantiation would copy to `offset` of linear memory."""

    offset: int
    data: bytes


class Reader:
    """A place in the bytes of a module. Each method raises ArtifactError where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self._data)

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self._data):
            raise ArtifactError("the wasm module is truncated")
        part = self._data[self.at : end]
        self.at = end
        return part

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ArtifactError("the wasm module has an overlong integer")

    def signed(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << shift) if byte & 0x40 else value
            if shift > 63:
                raise ArtifactError("the wasm module has an overlong integer")

    def name(self) -> str:
        try:
            return self.take(self.unsigned()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError("the wasm module has a name that is not UTF-8") from error

    def limits(self) -> tuple[int, int | None]:
        flags = self.unsigned()
        minimum = self.unsigned()
        return minimum, self.unsigned() if flags & 1 else None


def sections(module: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (id, start, end, payload) of each section, header included in start..end."""
    if module[:8] != _MAGIC:
        raise ArtifactError("not a wasm module of version 1")
    reader = Reader(module)
    reader.at = 8
    while not reader.done:
        start = reader.at
        section = reader.byte()
        payload = reader.take(reader.unsigned())
        yield section, start, reader.at, payload


def read_imports(module: bytes) -> list[tuple[str, str, str]]:
    """Return (module, name, kind) of each import, in the module's order."""
    found = []
    for section, _, _, payload in sections(module):
        if section != _IMPORT:
            continue
        reader = Reader(payload)
        for _ in range(reader.unsigned()):
            source, name, kind = reader.name(), reader.name(), reader.byte()
            if kind == 0:
                reader.unsigned()
            elif kind == 1:
                reader.byte()
                reader.limits()
            elif kind == 2:
                reader.limits()
            elif kind == 3:
                reader.take(2)
            else:
                raise ArtifactError(f"the wasm module imports something of kind {kind}")
            found.append((source, name, _KINDS[kind]))
    return found


def read_exports(module: bytes) -> list[tuple[str, str]]:
    """Return (name, kind) of each export, in the module's order."""
    found = []
    for section, _, _, payload in sections(module):
        if section != _EXPORT:
            continue
        reader = Reader(payload)
        for _ in range(reader.unsigned()):
            name, kind = reader.name(), reader.byte()
            reader.unsigned()
            if kind not in _KINDS:
                raise ArtifactError(f"the wasm module exports something of kind {kind}")
            found.append((name, _KINDS[kind]))
    return found


def memory_pages_min(module: bytes) -> int:
    """Return the initial size of the module's one memory, in pages of 64 KiB."""
    for section, _, _, payload in sections(module):
        if section == _MEMORY:
            reader = Reader(payload)
            if reader.unsigned() != 1:
                break
            return reader.limits()[0]
    raise ArtifactError("the wasm module does not define exactly one memory")


def strip_data(module: bytes) -> tuple[bytes, list[DataSegment]]:
    """Return the module without data, data-count and custom sections, and the data it would have copied.

    Without data segments instantiation writes nothing: the contents come from the mapped image.

    Raises:
        ArtifactError: a segment is passive or its offset is not a constant, so that it cannot be
            laid out ahead of time.
    """
    code = bytearray(module[:8])
    segments: list[DataSegment] = []
    for section, start, end, payload in sections(module):
        if section == _DATA:
            segments = _data_segments(payload)
        elif section not in (_DATA_COUNT, _CUSTOM):
            code += module[start:end]
    return bytes(code), segments


def _data_segments(payload: bytes) -> list[DataSegment]:
    reader = Reader(payload)
    segments = []
    for _ in range(reader.unsigned()):
        if reader.unsigned() != 0 or reader.byte() != _I32_CONST:
            raise ArtifactError("a data segment of the module is not active at a constant offset")
        offset = reader.signed() & 0xFFFF_FFFF
        if reader.byte() != _END:
            raise ArtifactError("a data segment's offset is not a single constant")
        segments.append(DataSegment(offset, reader.take(reader.unsigned())))
    return segments
