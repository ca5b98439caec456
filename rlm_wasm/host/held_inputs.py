"""The inputs of one session that lie with its host, by the numbers that its guest knows them by."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from rlm_wasm.errors import UsageError
from rlm_wasm.folder_text import FolderText
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.protocol.input_reads import NUMBERS
from rlm_wasm.protocol.input_value import FILE_NAME_BYTES_MAX, HeldInput

# So many files a session's inputs can be: several folders of as many as one may have.
INPUTS_MAX: Final = 50_000
# Of a str, the bytes of so many characters are made at a time.
_PAGE_CHARS: Final = 1 << 16


class InputSource(Protocol):
    """Something of which parts can be read."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was. Raises InputChanged, OSError."""


class BytesInMemory:
    """Bytes that the host has."""

    is_counted: Final = True

    def __init__(self, value: bytes) -> None:
        self._view: Final = memoryview(value)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self._view)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was."""
        return _copied(self._view[offset : offset + len(buffer)], buffer)


class TextInMemory:
    """A str that the host has, as the file of its UTF-8.

    Parts of that are made as they are asked for, so that nobody has to have all of it twice.
    """

    def __init__(self, value: str) -> None:
        # A subclass may answer otherwise than a str does.
        self._slice: Final = partial(str.__getitem__, value)
        self._length: Final = str.__len__(value)
        # Where in the UTF-8 each page of characters begins, and its end; nothing until somebody asks.
        self._begins: list[int] | None = None
        self._is_ascii: Final = str.isascii(value)

    @property
    def is_counted(self) -> bool:
        """Whether its size is known; else whoever asks waits for all of its characters to be looked at."""
        return self._is_ascii or self._begins is not None

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._length if self._is_ascii else self._page_begins()[-1]

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was."""
        if self._is_ascii:
            return _copied(self._slice(slice(offset, offset + len(buffer))).encode(), buffer)
        begins = self._page_begins()
        view, done, page = memoryview(buffer), 0, bisect_right(begins, offset) - 1
        while done < len(view) and page < len(begins) - 1:
            part = memoryview(self._page(page))[offset + done - begins[page] :]
            done += _copied(part[: len(view) - done], view[done:])
            page += 1
        return done

    def _page_begins(self) -> list[int]:
        if self._begins is None:
            begins = [0]
            for page in range(-(-self._length // _PAGE_CHARS)):
                begins.append(begins[-1] + len(self._page(page)))
            self._begins = begins
        return self._begins

    def _page(self, page: int) -> bytes:
        part = self._slice(slice(page * _PAGE_CHARS, (page + 1) * _PAGE_CHARS))
        return part.encode("utf-8", "surrogatepass")


def _copied(part: bytes | memoryview, buffer: bytearray | memoryview) -> int:
    buffer[: len(part)] = part
    return len(part)


def _sources(value: str | bytes | InputFile) -> list[InputSource]:
    if isinstance(value, InputFile):
        return [value]
    if isinstance(value, FolderText):
        return [TextInMemory(text) for text in value.files.values()]
    return [BytesInMemory(value) if isinstance(value, bytes) else TextInMemory(value)]


@dataclass(frozen=True, slots=True)
class _Held:
    variable: str
    file: bytes
    # One, or those of a folder's files.
    numbers: range


class HeldInputs:
    """The inputs that a guest can read from its host. A fork begins with those of its origin.

    One is there as long as its variable or its file is: another one of the variable's name takes the one's
    place, another one of the file's name the other's.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Held] = {}
        self._sources: dict[int, InputSource] = {}
        self._by_variable: dict[str, int] = {}
        self._by_file: dict[bytes, int] = {}
        self._last = 0

    def begin_with(self, held: HeldInputs) -> None:
        """Have the inputs of what this session is a fork of, under their numbers."""
        self._entries, self._sources, self._last = dict(held._entries), dict(held._sources), held._last
        self._by_variable, self._by_file = dict(held._by_variable), dict(held._by_file)

    def copy(self) -> HeldInputs:
        """Return the inputs as they are now, for a snapshot."""
        made = HeldInputs()
        made.begin_with(self)
        return made

    def add(self, variable: str, file: str, value: str | bytes | InputFile) -> HeldInput:
        """Take an input under a number of its own, until it is `keep`t in the place of another, or `drop`ped.

        The files of a folder have the numbers from that one on.

        Raises:
            UsageError: no file can be called so, there are too many, or there were in all.
        """
        raw = file.encode("utf-8", "replace")
        if not 0 < len(raw) <= FILE_NAME_BYTES_MAX or b"/" in raw or b"\0" in raw or raw in (b".", b".."):
            raise UsageError(f"{file!a:.300} is no name of a file of at most {FILE_NAME_BYTES_MAX} bytes")
        sources = _sources(value)
        replaced = sum(len(self._entries[number].numbers) for number in self._replaced(variable, raw))
        if len(self._sources) - replaced + len(sources) > INPUTS_MAX:
            raise UsageError(f"a session has at most {INPUTS_MAX} inputs")
        numbers = range(self._last + 1, self._last + 1 + max(1, len(sources)))
        if numbers.stop > NUMBERS:
            raise UsageError("a session has had all the inputs that it can number")
        self._last = numbers[-1]
        self._entries[numbers[0]] = _Held(variable, raw, numbers)
        self._sources |= zip(numbers, sources, strict=False)
        if isinstance(value, InputFile):
            return HeldInput(numbers[0], raw, "bytes" if value.as_bytes else "text")
        return HeldInput(numbers[0], raw, folder=isinstance(value, FolderText))

    def keep(self, number: int) -> None:
        """Make an input what its variable and its file are: the guest has it."""
        entry = self._entries.get(number)
        if entry is None:
            return  # the session was closed meanwhile
        for replaced in self._replaced(entry.variable, entry.file):
            self.drop(replaced)
        self._by_variable[entry.variable] = self._by_file[entry.file] = number

    def drop(self, number: int) -> None:
        """Forget an input that did not come to be."""
        entry = self._entries.pop(number, None)
        for each in entry.numbers if entry is not None else ():
            self._sources.pop(each, None)

    def clear(self) -> None:
        """Forget all of them: the session is over."""
        self._entries, self._sources, self._by_variable, self._by_file = {}, {}, {}, {}

    def get(self, number: int) -> InputSource | None:
        """Return an input, if it is there: a snapshot that was read from a file has none."""
        return self._sources.get(number)

    def _replaced(self, variable: str, file: bytes) -> set[int]:
        """Return what is neither a variable nor a file any more once these two are another's."""
        gone = set[int]()
        for number in (self._by_variable.get(variable), self._by_file.get(file)):
            if number is None:
                continue
            entry = self._entries[number]
            variable_stays = entry.variable != variable and self._by_variable[entry.variable] == number
            file_stays = entry.file != file and self._by_file[entry.file] == number
            if not variable_stays and not file_stays:
                gone.add(number)
        return gone
