"""A file that a user named, read once from one descriptor, in pieces, and never past a limit.

What is said of a file is asked of the descriptor that it is read from, so nothing can be put in its place
between a check and the reading. A file that grows while it is read is taken as long as it was when it was
opened; one that changed otherwise is refused.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeAlias

from rlm_wasm.errors import InputError, InputTooLarge, UsageError

STDIN: Final = "-"
# What opens a path, as `os.open` does: for who may read in some folders alone, one that opens nothing else.
Opener: TypeAlias = Callable[[str, int], int]
_PIECE_BYTES: Final = 1 << 20


def shown(file: str) -> str:
    """Return a file's name as a message has it, without what a terminal would obey."""
    if file == STDIN:
        return "standard input"
    return file if file.isprintable() else ascii(file)


class OpenFile:
    """A file or stream that is read from its start to its end, once. Closes itself as a context manager."""

    def __init__(self, file: str, descriptor: int, *, borrowed: bool = False) -> None:
        self.file: Final = file
        self._descriptor = descriptor
        self._borrowed = borrowed
        self._first = os.fstat(descriptor)
        # Some files of the kernel's say that they are empty, and are not.
        self._size: Final = self._first.st_size if stat.S_ISREG(self._first.st_mode) else 0
        self._taken = 0
        self._ahead = b""
        self.read_bytes = 0
        self.grew = False

    @classmethod
    def named(cls, file: str, opener: Opener = os.open) -> Self:
        """Open what a user named, through links, or standard input for ``-``; also a pipe or a device.

        Raises:
            InputError: it cannot be opened, or is a folder. UsageError: the name is empty.
        """
        if file == STDIN:
            return cls._standard_input()
        if not file:
            raise UsageError("the name of a file is empty")
        try:
            descriptor = opener(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise unreadable(file, error) from error
        opened = cls(file, descriptor)
        if stat.S_ISDIR(opened._first.st_mode):
            os.close(descriptor)
            raise InputError(file, f"cannot read {shown(file)}: it is a folder")
        return opened

    @classmethod
    def _standard_input(cls) -> Self:
        try:
            return cls(STDIN, sys.stdin.fileno(), borrowed=True)
        except (OSError, ValueError) as error:
            raise unreadable(STDIN, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._borrowed:
            os.close(self._descriptor)

    def head(self, bytes_max: int) -> bytes:
        """Return how a regular file begins, without reading on from there. Raises InputError."""
        try:
            return os.pread(self._descriptor, bytes_max, 0)
        except OSError as error:
            raise unreadable(self.file, error) from error

    def peek(self, bytes_max: int) -> bytes:
        """Return how it begins, also of a pipe; `pieces` has that too. Raises InputError."""
        while len(self._ahead) < bytes_max and (piece := self._read(bytes_max - len(self._ahead))):
            self._ahead += piece
        return self._ahead

    def pieces(self, bytes_max: int, key: str) -> Iterator[bytes]:
        """Yield what it holds; at most `bytes_max` bytes, the limit that the policy calls `key`.

        Raises:
            InputTooLarge: it holds more; of a file that says so itself, before any of it is read.
            InputError: it cannot be read, or changed meanwhile.
        """
        if self._size > bytes_max:
            raise too_large(self.file, bytes_max, key)
        while piece := self._piece():
            self.read_bytes += len(piece)
            if self.read_bytes > bytes_max:
                raise too_large(self.file, bytes_max, key)
            yield piece
        self._compare()

    def _piece(self) -> bytes:
        piece, self._ahead = self._ahead, b""
        return piece or self._read(_PIECE_BYTES)

    def _read(self, bytes_max: int) -> bytes:
        left = self._size - self._taken if self._size else bytes_max
        try:
            piece = os.read(self._descriptor, min(left, bytes_max)) if left else b""
        except OSError as error:
            raise unreadable(self.file, error) from error
        self._taken += len(piece)
        return piece

    def _compare(self) -> None:
        """Say what became of a regular file while it was read."""
        if not self._size:
            return
        last = os.fstat(self._descriptor)
        self.grew = last.st_size > self._size
        written = not self.grew and last.st_mtime_ns != self._first.st_mtime_ns
        if written or self.read_bytes < self._size:
            raise changed(self.file)


def read_whole(file: str, bytes_max: int, key: str) -> bytes:
    """Return what a file that a user named holds, as it is. Raises what `OpenFile` does."""
    with OpenFile.named(file) as opened:
        return b"".join(opened.pieces(bytes_max, key))


def unreadable(file: str, error: Exception) -> InputError:
    """Return the error for a file that the system does not let us read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable name"
    return InputError(file, f"cannot read {shown(file)}: {reason}")


def changed(file: str) -> InputError:
    """Return the error for a file that is not what it was when its reading began."""
    return InputError(file, f"{shown(file)} changed while it was read; give a copy that nobody writes to")


def too_large(file: str, bytes_max: int, key: str, *, what: str = "is larger") -> InputTooLarge:
    """Return the error for a file of more bytes than the policy allows."""
    return InputTooLarge(
        file,
        f"{shown(file)} {what} than the {bytes_max} bytes that {key} allows; raise that key in the policy, "
        "or give a part of it",
        key=key,
        limit=bytes_max,
    )
