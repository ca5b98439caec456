"""The window of a session that reads an input: memory that its host fills, and its worker copies from.

One that is lent to a worker is the host's, no larger than it was made, and taken back by the host whenever it
likes. Whoever was broken into there may write to it and cut it, and so the host never reads from it, and
writes by system calls alone, which fail where code that touches such memory would be killed.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from rlm_wasm.errors import HostExhausted
from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX, InputPart
from rlm_wasm.system.memfd import MemoryFile


class LentWindow:
    """One in a memory file that a worker maps as well. Raises HostExhausted: it cannot be mapped here."""

    def __init__(self, file: MemoryFile) -> None:
        self._file: Final = file
        # Whether the worker has it.
        self.sent = False
        self.abandoned = False
        try:
            self._view: Final = memoryview(mmap.mmap(file.fd, WINDOW_BYTES_MAX))
        except (OSError, ValueError) as error:  # a process may have no file so large
            raise HostExhausted(f"a window of an input cannot be mapped: {error}") from error

    @property
    def file(self) -> MemoryFile:
        """The file, for whoever lends it."""
        return self._file

    def view(self, length: int) -> memoryview:
        """Return its first bytes, to be written by a system call and nothing else."""
        return self._view[:length]

    def put(self, at: int, data: memoryview) -> None:
        """Write some of it. Raises OSError: whoever has it as well has cut it."""
        while data:
            written = os.pwrite(self._file.fd, data, at)
            data, at = data[written:], at + written

    def part(self, filled: int) -> InputPart:
        """Return the answer that its first bytes are."""
        return InputPart(filled=filled)

    def abandon(self) -> None:
        """Somebody may be filling it still who is not waited for: nothing else is to come into it."""
        self.abandoned = True


class LocalWindow:
    """One in this process, for a guest that is here."""

    def __init__(self) -> None:
        self._view: Final = memoryview(bytearray(WINDOW_BYTES_MAX))
        self.abandoned = False

    def view(self, length: int) -> memoryview:
        """Return its first bytes."""
        return self._view[:length]

    def put(self, at: int, data: memoryview) -> None:
        """Write some of it."""
        self._view[at : at + len(data)] = data

    def part(self, filled: int) -> InputPart:
        """Return the answer that its first bytes are: the same memory, until it is filled again."""
        return InputPart(self._view[:filled])

    def abandon(self) -> None:
        """Somebody may be filling it still who is not waited for: nothing else is to come into it."""
        self.abandoned = True
