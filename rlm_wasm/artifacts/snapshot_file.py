"""A session's snapshot on disk: compressed, encrypted, authenticated, bound to its guest and its tenant.

    magic, header length, header (JSON)      what it is; authenticated with every chunk
    chunks                                   ChaCha20-Poly1305 over pieces of one zstd stream

The key of a file is derived (HKDF-SHA256) from the caller's key, a random salt and the header, so
that neither a chunk nor a header fits another file. A chunk's nonce is its number and whether it
is the last (the STREAM construction, Hoang et al. 2015): chunks cannot be cut, swapped or dropped.
Nothing is decompressed before all of it is authenticated, and nothing is used before all of it is
read. A key is no promise of a sound file: what is decompressed is cut off where the header's size is used up,
and the header's size is what the caller allows.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rlm_wasm.artifacts.files import read_owned, write_private
from rlm_wasm.artifacts.guest import PAGE_BYTES
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.system.zstd import ZstdCompressor, ZstdError, bounded_decompressor
from rlm_wasm.tenant import checked_tenant

KEY_BYTES: Final = 32
FORMAT: Final = 1
MEMORY_BYTES_MAX: Final = (4 << 30) - PAGE_BYTES
_MAGIC: Final = b"RLMIMAGE"
_HEADER_BYTES_MAX: Final = 4_096
_CHUNK_BYTES: Final = 1 << 20
_TAG_BYTES: Final = 16
_SALT_BYTES: Final = 32
# The window of what we write has 2 MiB.
_WINDOW_LOG_MAX: Final = 23
_LENGTH: Final = struct.Struct("<I")
_RUN: Final = struct.Struct("<QQ")
_RUN_ALIGN: Final = 4_096
Runs = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot is of. `code_sha256` and `image_sha256` name the guest it belongs to."""

    format: int
    code_sha256: str
    image_sha256: str
    tenant: str
    size: int
    virtual_ns: int
    payload_bytes: int
    salt: str


def write_snapshot_file(
    path: Path, key: bytes, *, guest: tuple[str, str], tenant: str, size: int, virtual_ns: int, runs: Runs
) -> None:
    """Write a snapshot: the pages `runs` over the base image of the guest with these hashes.

    Raises:
        UsageError: the key has not 32 bytes, or the tenant's name is none.
        ArtifactError: the file cannot be written.
    """
    _check_key(key)
    tenant = checked_tenant(tenant)
    header = SnapshotHeader(
        format=FORMAT,
        code_sha256=guest[0],
        image_sha256=guest[1],
        tenant=tenant,
        size=size,
        virtual_ns=virtual_ns,
        payload_bytes=sum(_RUN.size + len(data) for _, data in runs),
        salt=os.urandom(_SALT_BYTES).hex(),
    )
    text = json.dumps(asdict(header), sort_keys=True).encode()
    write_private(path, _sealed(text, _cipher(key, header, text), runs))


def read_snapshot_file(
    path: Path, key: bytes, *, guest: tuple[str, str], tenant: str, memory_bytes_max: int = MEMORY_BYTES_MAX
) -> tuple[SnapshotHeader, Runs]:
    """Read a snapshot back, all of it or nothing; of a memory of `memory_bytes_max` at most.

    Raises:
        UsageError: the key has not 32 bytes.
        ArtifactError: the file is missing, cut, changed, too large, of another guest, tenant, key or format.
    """
    _check_key(key)
    tenant = checked_tenant(tenant)
    try:
        data = read_owned(path, bytes_max=_file_bytes_max(memory_bytes_max))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist") from error
    header, text, at = _read_header(path, data)
    if (header.code_sha256, header.image_sha256) != guest:
        raise ArtifactError(f"{path} is a snapshot of another guest build")
    if header.tenant != tenant:
        raise ArtifactError(f"{path} belongs to another tenant")
    if header.size > memory_bytes_max:
        raise ArtifactError(
            f"{path} is of a memory of {header.size} bytes; at most {memory_bytes_max} are allowed",
            hint="raise `sandbox.memory_bytes_max`, or load it under the policy that it was saved under",
        )
    # All of it is authenticated before any of it is decompressed.
    compressed = b"".join(_opened(path, memoryview(data)[at:], _cipher(key, header, text)))
    return header, tuple(_runs(path, header, compressed))


def _payload_bytes_max(size: int) -> int:
    """Return what the runs of a memory may have together: each is at least a page long."""
    return size + size // _RUN_ALIGN * _RUN.size


def _file_bytes_max(size: int) -> int:
    """Return what the file of a memory may have, also where nothing of it could be compressed."""
    payload = _payload_bytes_max(size)
    return payload + payload // 64 + _CHUNK_BYTES


def _check_key(key: bytes) -> None:
    if not isinstance(key, bytes | bytearray | memoryview):
        raise UsageError(f"a snapshot's key is bytes, not a {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise UsageError(f"a snapshot's key has {KEY_BYTES} bytes, not {len(key)}")


def _cipher(key: bytes, header: SnapshotHeader, text: bytes) -> ChaCha20Poly1305:
    info = b"rlm-wasm image\0" + text
    derive = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=bytes.fromhex(header.salt), info=info)
    return ChaCha20Poly1305(derive.derive(key))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _sealed(text: bytes, cipher: ChaCha20Poly1305, runs: Runs) -> Iterator[bytes]:
    yield _MAGIC + _LENGTH.pack(len(text)) + text
    number = 0
    held: bytes | None = None
    for chunk in _compressed(runs):
        if held is not None:
            yield cipher.encrypt(_nonce(number, last=False), held, None)
            number += 1
        held = chunk
    yield cipher.encrypt(_nonce(number, last=True), held or b"", None)


def _compressed(runs: Runs) -> Iterator[bytes]:
    """Yield the zstd stream of the runs in chunks of exactly _CHUNK_BYTES but for the last."""
    compressor = ZstdCompressor(level=3)
    buffer = bytearray()

    def pieces() -> Iterator[bytes]:
        for offset, data in runs:
            yield compressor.compress(_RUN.pack(offset, len(data)))
            yield compressor.compress(data)
        yield compressor.flush()

    for piece in pieces():
        buffer += piece
        while len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer[:_CHUNK_BYTES])
            del buffer[:_CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _read_header(path: Path, data: bytes) -> tuple[SnapshotHeader, bytes, int]:
    start = len(_MAGIC) + _LENGTH.size
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(f"{path} is not a snapshot")
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    if length > _HEADER_BYTES_MAX or len(data) < start + length:
        raise ArtifactError(f"{path} is cut short")
    text = data[start : start + length]
    try:
        header = SnapshotHeader(**json.loads(text))
        numbers = (header.format, header.size, header.virtual_ns, header.payload_bytes)
        texts = (header.code_sha256, header.image_sha256, header.tenant, header.salt)
        sound = all(type(n) is int and n >= 0 for n in numbers) and all(type(t) is str for t in texts)
        sound = sound and len(bytes.fromhex(header.salt)) == _SALT_BYTES
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} has a header that cannot be read") from error
    if not sound or header.size % PAGE_BYTES or header.size > MEMORY_BYTES_MAX:
        raise ArtifactError(f"{path} has an impossible header")
    if header.format != FORMAT:
        raise ArtifactError(f"{path} has format {header.format}; this version reads {FORMAT}")
    if header.payload_bytes > _payload_bytes_max(header.size):
        raise ArtifactError(f"{path} promises more than a memory of its size can hold")
    return header, text, start + length


def _opened(path: Path, sealed: memoryview, cipher: ChaCha20Poly1305) -> Iterator[bytes]:
    whole = _CHUNK_BYTES + _TAG_BYTES
    count = max(1, -(-len(sealed) // whole))
    for number in range(count):
        chunk = bytes(sealed[number * whole : (number + 1) * whole])
        try:
            yield cipher.decrypt(_nonce(number, last=number == count - 1), chunk, None)
        except InvalidTag as error:
            raise ArtifactError(f"{path} was changed or cut, or this is not its key") from error


class _Payload:
    """The decompressed bytes of a snapshot, a piece at a time: never more of them than were asked for."""

    def __init__(self, path: Path, compressed: bytes) -> None:
        self._path = path
        self._stream = bounded_decompressor(_WINDOW_LOG_MAX)
        self._fed = compressed  # until it is taken

    def read(self, count: int) -> bytes:
        """Return so many bytes, or what there is."""
        parts = []
        try:
            while count and not self._stream.eof and (self._fed or not self._stream.needs_input):
                part = self._stream.decompress(self._fed, min(count, _CHUNK_BYTES))
                self._fed = b""
                parts.append(part)
                count -= len(part)
        except ZstdError as error:
            raise ArtifactError(f"{self._path} does not decompress") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _runs(path: Path, header: SnapshotHeader, compressed: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the runs, which lie behind one another in the memory: together no more than it has."""
    payload = _Payload(path, compressed)
    read = end = 0
    while head := payload.read(_RUN.size) if compressed else b"":
        if len(head) < _RUN.size:
            raise ArtifactError(f"{path} ends in the middle of a run")
        offset, length = _RUN.unpack(head)
        aligned = offset % _RUN_ALIGN == 0 and length % _RUN_ALIGN == 0 and length > 0
        read += len(head) + length
        if not aligned or offset < end or offset + length > header.size or read > header.payload_bytes:
            raise ArtifactError(f"{path} has a run outside its memory")
        data = payload.read(length)
        if len(data) < length:
            raise ArtifactError(f"{path} ends in the middle of a run")
        yield offset, data
        end = offset + length
    if read != header.payload_bytes:
        raise ArtifactError(f"{path} holds {read} bytes, not the {header.payload_bytes} it says")
