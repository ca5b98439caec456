"""The part of an input that an operation has beyond what its guest asked for, which asks again as a rule.

A guest that reads on where it stopped is given twice as much as the last time, up to what a window holds;
one that looks here and there gets what it asks for, and pays for no more.
"""

from __future__ import annotations

from dataclasses import replace

from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX, InputAsked


class ReadAhead:
    """The last part of an input that came."""

    __slots__ = ("_ahead", "_data", "_next", "_number", "_offset")

    def __init__(self) -> None:
        self._number = -1
        self._offset = 0
        self._data: bytes | memoryview = b""
        # Where a guest that goes on reads next, and how much it is given then.
        self._next = 0
        self._ahead = 0

    def take(self, asked: InputAsked) -> bytes | memoryview | None:
        """Return what is asked, if all of it is here: memory that `wanted` gives back to be filled anew."""
        start = asked.offset - self._offset
        if asked.number != self._number or start < 0 or start + asked.length > len(self._data):
            return None
        self._next = asked.offset + asked.length
        return self._data[start : start + asked.length]

    def wanted(self, asked: InputAsked) -> InputAsked:
        """Return what to ask the host for. What was here is not any more."""
        self._data = b""
        goes_on = asked.number == self._number and asked.offset == self._next
        self._next = asked.offset + asked.length
        self._ahead = min(2 * max(self._ahead, asked.length), WINDOW_BYTES_MAX) if goes_on else 0
        return replace(asked, length=max(self._ahead, asked.length))

    def keep(self, asked: InputAsked, data: bytes | memoryview) -> None:
        """Keep what came."""
        self._number, self._offset, self._data = asked.number, asked.offset, data
