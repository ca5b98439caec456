"""Lines over a descriptor, as MCP has its messages over pipes: read within a bound, written without blocking.

The library's own reader takes a line of any length, and its writer a thread that nobody can end.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.lowlevel

_PIECE_BYTES: Final = 64 * 1024
# A pipe that can be written to at all takes so much at once.
_WRITTEN_BYTES: Final = 4096


class LongLine(Exception):
    """The other side sent a longer line than it may."""

    def __init__(self, begin: bytes, end: bytes) -> None:
        super().__init__("a message is longer than it may be")
        self.begin: Final = begin
        self.end: Final = end


class LineReader:
    """Yields lines, without their ends, of at most `bytes_max` bytes. Of a longer one it yields a `LongLine`.

    The descriptor stays the caller's.
    """

    def __init__(self, descriptor: int, bytes_max: int) -> None:
        self._descriptor = descriptor
        self._bytes_max = bytes_max
        # A file is always ready, and cannot be waited for.
        self._waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    @property
    def hung_up(self) -> bool:
        """Whether the other side has closed its end, and there is no more than what lies here unread."""
        looked = select.poll()
        looked.register(self._descriptor, select.POLLRDHUP)
        return self._waits and bool(looked.poll(0))

    async def __aiter__(self) -> AsyncIterator[bytes | LongLine]:
        held = bytearray()
        seen = 0
        long: LongLine | None = None
        while piece := await self._read():
            held += piece
            while (at := held.find(b"\n", seen)) >= 0:
                line = bytes(held[:at])
                del held[: at + 1]
                seen = 0
                if long is not None:
                    yield LongLine(long.begin, (long.end + line)[-_PIECE_BYTES:])
                    long = None
                elif len(line) > self._bytes_max:
                    yield LongLine(line[:_PIECE_BYTES], line[-_PIECE_BYTES:])
                elif line.strip():
                    yield line
            seen = len(held)
            if long is not None or len(held) > self._bytes_max:
                # Of the rest of it nothing is kept but its last part.
                begin = long.begin if long is not None else bytes(held[:_PIECE_BYTES])
                end = (long.end if long is not None else b"") + bytes(held)
                long = LongLine(begin, end[-_PIECE_BYTES:])
                held.clear()
                seen = 0

    async def _read(self) -> bytes:
        while True:
            if self._waits:
                await anyio.wait_readable(self._descriptor)
            else:
                await anyio.lowlevel.checkpoint()
            try:
                return os.read(self._descriptor, _PIECE_BYTES)
            except BlockingIOError:  # whoever gave it to us does not wait
                continue


class LineWriter:
    """Writes lines, each whole unless it is cancelled. For one task. The descriptor stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    async def write(self, line: bytes) -> None:
        """Write a line. Raises OSError: nobody reads it any more."""
        left = memoryview(line + b"\n")
        while left:
            if self._waits:
                await anyio.wait_writable(self._descriptor)
            else:
                await anyio.lowlevel.checkpoint()
            try:
                left = left[os.write(self._descriptor, left[:_WRITTEN_BYTES]) :]
            except BlockingIOError:
                continue
