"""Events on disk for a reader that is behind: a file without a name, gone with its descriptor."""

from __future__ import annotations

import os
import tempfile
from typing import Final

from rlm_wasm.audit.line import decode_line, encode_line
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event

_LENGTH_BYTES: Final = 8


class Spill:
    """First in, first out; at most `bytes_max` of file. Close it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max: Final = bytes_max
        self._fd: int | None = None
        self._closed = False
        self._read_at = 0
        self._write_at = 0

    def __bool__(self) -> bool:
        """Whether an event is waiting."""
        return self._read_at < self._write_at

    def put(self, event: Event) -> bool:
        """Keep an event; False if it does not fit, or the disk refuses it."""
        line = encode_line(event)
        record = len(line).to_bytes(_LENGTH_BYTES, "little") + line
        if self._closed or self._write_at + len(record) > self._bytes_max:
            return False
        try:
            if self._fd is None:
                self._fd = _nameless_file()
            if not self:
                # Everything was read: the space is given back before it is used again.
                os.ftruncate(self._fd, 0)
                self._read_at = self._write_at = 0
            if os.pwrite(self._fd, record, self._write_at) < len(record):
                return False  # a full disk took part of it, which the next record overwrites
        except OSError:
            return False
        self._write_at += len(record)
        return True

    def get(self) -> Event:
        """Return the oldest event. Raises RlmWasmError if it cannot be read back."""
        if self._fd is None or not self:
            raise IndexError("the spill is empty")
        try:
            length = int.from_bytes(os.pread(self._fd, _LENGTH_BYTES, self._read_at), "little")
            line = os.pread(self._fd, length, self._read_at + _LENGTH_BYTES)
        except OSError as exc:
            raise RlmWasmError(f"cannot read spilled events: {exc.strerror}") from exc
        event = decode_line(line)
        self._read_at += _LENGTH_BYTES + length
        return event

    def close(self) -> None:
        """Forget everything; the file goes with its descriptor. Safe to call again."""
        self._closed = True
        self._read_at = self._write_at = 0
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _nameless_file() -> int:
    """Return the descriptor of a new file that no directory holds."""
    with tempfile.TemporaryFile(prefix="rlm-wasm-", buffering=0) as file:
        return os.dup(file.fileno())  # not inherited, as the original
