"""Packed files, unpacked as a stream: gzip, zstd, bzip2 and xz, each step bounded, and so is what comes out.

A packed file is hostile until it is unpacked. Each step of a decompressor gives at most a piece; what came
out is held against the policy's bytes and its ratio after each piece, so a bomb costs its first pieces.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Final, Protocol

from rlm_wasm.errors import InputDamaged, InputTooLarge
from rlm_wasm.inputs.open_file import shown, too_large
from rlm_wasm.limits import INPUT_RATIO_FROM_BYTES, INPUT_UNPACKING_BYTES_MAX
from rlm_wasm.system.zstd import ZstdError, bounded_decompressor

PIECE_BYTES: Final = 1 << 20
_STEP_BYTES: Final = 16_384


class Packing(Enum):
    """A form of packing: its word, the end of such a file's name, and how such a file begins."""

    GZIP = ("gzip", ".gz", b"\x1f\x8b")
    ZSTD = ("zstd", ".zst", b"\x28\xb5\x2f\xfd")
    BZIP2 = ("bzip2", ".bz2", b"BZh")
    XZ = ("xz", ".xz", b"\xfd7zXZ\x00")

    @property
    def word(self) -> str:
        """What it is called."""
        return self.value[0]

    @property
    def suffix(self) -> str:
        """The end of the name of a file that is packed so."""
        return self.value[1]

    @property
    def magic(self) -> bytes:
        """How such a file begins."""
        return self.value[2]


# How much of a file's beginning tells its packing.
HEAD_BYTES: Final = 10
# What follows `BZh` and a digit: the first block's mark, or the last one's where there is none.
_BZIP2_BLOCKS: Final = (b"1AY&SY", b"\x17rE8P\x90")


def packing_of(file: str, head: bytes) -> Packing | None:
    """Return how a file is packed, by the end of its name, or else by how it begins; None: not at all."""
    for packing in Packing:
        if file.lower().endswith(packing.suffix):
            return packing
    for packing in Packing:
        if head.startswith(packing.magic) and (
            packing is not Packing.BZIP2 or head[4:HEAD_BYTES] in _BZIP2_BLOCKS
        ):
            return packing
    return None


class _Decoder(Protocol):
    """One stream that is unpacked: fed while it is hungry, until it has ended."""

    hungry: bool
    ended: bool
    rest: bytes

    def feed(self, data: bytes) -> None:
        """Take packed bytes."""

    def step(self) -> bytes:
        """Give at most a piece of what they hold."""


def unpacked(
    packing: Packing, pieces: Iterable[bytes], file: str, *, bytes_max: int, key: str, ratio_max: int
) -> Iterator[bytes]:
    """Yield what the packed `pieces` of a file hold, one stream after the other.

    Raises:
        InputTooLarge: more than `bytes_max` bytes, the limit `key`; more than `ratio_max` bytes for each one
            that was read, beyond the first MiB; or more memory for the work than a decompressor may take.
        InputDamaged: it is not packed so, is damaged or ends too early.
    """
    decoder: _Decoder | None = None
    taken = given = streams = 0
    for data in _in_steps(pieces):
        taken += len(data)
        # What is left of it may be another stream, and before that, zeros.
        while data := data.lstrip(b"\0") if streams and decoder is None else data:
            if decoder is None:
                decoder, streams = _DECODERS[packing](), streams + 1
            decoder.feed(data)
            while not (decoder.hungry or decoder.ended):
                piece = _step(decoder, packing, file)
                given += len(piece)
                if given > bytes_max:
                    raise too_large(file, bytes_max, key)
                if given > max(INPUT_RATIO_FROM_BYTES, ratio_max * taken):
                    raise _too_dense(file, ratio_max)
                if piece:
                    yield piece
            data = decoder.rest
            if decoder.ended:
                decoder = None
    if decoder is not None or not streams:
        raise _damaged(packing, file, "it is cut off" if streams else "it is empty")


def _in_steps(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # What a stream leaves over is copied: of a file of nothing but tiny streams, once for each.
    for piece in pieces:
        for start in range(0, len(piece), _STEP_BYTES):
            yield piece[start : start + _STEP_BYTES]


def _step(decoder: _Decoder, packing: Packing, file: str) -> bytes:
    try:
        return decoder.step()
    except MemoryError as error:
        raise _too_much_work(file) from error
    except (zlib.error, lzma.LZMAError, ZstdError, OSError, EOFError, ValueError) as error:
        if "memory" in str(error).lower():
            raise _too_much_work(file) from error
        raise _damaged(packing, file, "it is damaged") from error


def _too_dense(file: str, ratio_max: int) -> InputTooLarge:
    return InputTooLarge(
        file,
        f"{shown(file)} unpacks to more than {ratio_max} times its size, the most that inputs.ratio_max "
        "allows; raise that key in the policy, or unpack it first",
        key="inputs.ratio_max",
        limit=ratio_max,
    )


def _too_much_work(file: str) -> InputTooLarge:
    return InputTooLarge(
        file,
        f"{shown(file)} wants more than the {INPUT_UNPACKING_BYTES_MAX} bytes of memory that unpacking may "
        "take; unpack it first",
        limit=INPUT_UNPACKING_BYTES_MAX,
    )


def _damaged(packing: Packing, file: str, why: str) -> InputDamaged:
    return InputDamaged(
        file, f"{shown(file)} is not {packing.word} data: {why}; --bytes gives it as it is, packed"
    )


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._data = b""
        self.hungry, self.ended, self.rest = True, False, b""

    def feed(self, data: bytes) -> None:
        self._data, self.hungry = data, False

    def step(self) -> bytes:
        piece = self._inner.decompress(self._data, PIECE_BYTES)
        self._data, self.ended, self.rest = (
            self._inner.unconsumed_tail,
            self._inner.eof,
            self._inner.unused_data,
        )
        # A full piece may have left bytes within.
        self.hungry = not self._data and len(piece) < PIECE_BYTES
        return piece


class _Blocks:
    """What bzip2, xz and zstd have in common: they keep what they were fed and have not used."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._data = b""
        self.hungry, self.ended, self.rest = True, False, b""

    def feed(self, data: bytes) -> None:
        self._data, self.hungry = data, False

    def step(self) -> bytes:
        data, self._data = self._data, b""
        piece: bytes = self._inner.decompress(data, PIECE_BYTES)
        self.ended, self.rest = self._inner.eof, self._inner.unused_data
        self.hungry = self._inner.needs_input
        return piece


_DECODERS: Final[dict[Packing, Callable[[], _Decoder]]] = {
    Packing.GZIP: _Gzip,
    Packing.ZSTD: lambda: _Blocks(bounded_decompressor(INPUT_UNPACKING_BYTES_MAX.bit_length() - 1)),
    Packing.BZIP2: lambda: _Blocks(bz2.BZ2Decompressor()),
    Packing.XZ: lambda: _Blocks(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=INPUT_UNPACKING_BYTES_MAX)),
}
