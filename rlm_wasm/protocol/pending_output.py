"""The output of a live cell that nobody has taken yet: in order, in a bounded number of parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rlm_wasm.protocol.commands import CHUNKS_MAX, Wrote


class PendingOutput:
    """Output on its way, where a guest writes it, and where whoever takes it is behind.

    Code may change streams with every byte. After `CHUNKS_MAX` changes what it writes to one of them is
    joined: each stream stays in order.
    """

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: Final[list[tuple[int, bytearray]]] = []

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Note what was written to streams, 1 or 2."""
        for stream, data in chunks:
            self._part_for(stream).extend(data)

    def take(self) -> Wrote:
        """Return all of it; from now on there is none."""
        taken = Wrote(tuple((stream, bytes(data)) for stream, data in self._chunks))
        self._chunks.clear()
        return taken

    def _part_for(self, stream: int) -> bytearray:
        chunks = self._chunks
        # There are two streams: where the last chunk is of the other one, the last but one is of this.
        for of, data in chunks[-1:] if len(chunks) < CHUNKS_MAX else chunks[-2:]:
            if of == stream:
                return data
        chunks.append((stream, bytearray()))
        return chunks[-1][1]
