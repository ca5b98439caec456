"""The inputs of one session that lie with its host, by the numbers that its guest knows them by."""

from __future__ import annotations

from typing import Final, Protocol

from rlm_wasm.errors import UsageError
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.protocol.input_value import FILE_NAME_BYTES_MAX, HeldInput

# So many files a session's inputs can be.
INPUTS_MAX: Final = 10_000


class InputSource(Protocol):
    """Something of which parts can be read."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was. Raises InputChanged, OSError."""


class InputInMemory:
    """A str or bytes that the host has. A str is the file of its UTF-8, which is made when somebody asks."""

    def __init__(self, value: str | bytes) -> None:
        self._value = value

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self._bytes())

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was."""
        part = memoryview(self._bytes())[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def _bytes(self) -> bytes:
        if isinstance(self._value, str):
            self._value = str.encode(self._value, "utf-8", "surrogatepass")
        return self._value


class HeldInputs:
    """The inputs that a guest can read from its host. A fork begins with those of its origin."""

    def __init__(self) -> None:
        self._sources: dict[int, InputSource] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0

    def begin_with(self, held: HeldInputs) -> None:
        """Have the inputs of what this session is a fork of, under their numbers."""
        self._sources, self._numbers, self._last = dict(held._sources), dict(held._numbers), held._last

    def copy(self) -> HeldInputs:
        """Return the inputs as they are now, for a snapshot."""
        made = HeldInputs()
        made.begin_with(self)
        return made

    def add(self, file: str, value: str | bytes | InputFile) -> HeldInput:
        """Take an input as the file of this name, in the place of the one that had it before.

        Raises:
            UsageError: no file can be called so, or there are too many.
        """
        raw = file.encode("utf-8", "replace")
        if not 0 < len(raw) <= FILE_NAME_BYTES_MAX or b"/" in raw or b"\0" in raw or raw in (b".", b".."):
            raise UsageError(f"{file!a:.300} is no name of a file of at most {FILE_NAME_BYTES_MAX} bytes")
        if len(self._sources) >= INPUTS_MAX and file not in self._numbers:
            raise UsageError(f"a session has at most {INPUTS_MAX} inputs")
        self._sources.pop(self._numbers.pop(file, 0), None)
        self._last += 1
        self._numbers[file] = self._last
        if isinstance(value, InputFile):
            self._sources[self._last] = value
            return HeldInput(self._last, raw, "bytes" if value.as_bytes else "text")
        self._sources[self._last] = InputInMemory(value)
        return HeldInput(self._last, raw)

    def get(self, number: int) -> InputSource | None:
        """Return an input, if it is there: a snapshot that was read from a file has none."""
        return self._sources.get(number)
