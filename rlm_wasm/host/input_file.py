"""A file of this machine as an input that stays where it is: read a part at a time, when a guest asks for it.

It is opened once, and what was opened is what everybody reads: one that is replaced by its name is still
there, and one that is written to is told, and read no further.
"""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Final

from rlm_wasm.errors import UsageError

# What the variables of such inputs are in the guest: of bytes, and of text.
LAZY_TYPES: Final = ("LazyBytes", "LazyText")
_HASHED_BYTES: Final = 1 << 20
# A digest is made in steps of so much, between which whoever waits for it can be cancelled.
HASHED_AT_ONCE_BYTES: Final = 64 << 20


class InputChanged(Exception):
    """The file is not what it was when it was opened."""


class InputFile:
    """A regular file. `name` is what it is called in the guest's /inputs; without one, as it is called here.

    It is text in UTF-8, without the byte-order mark that it may begin with, unless it is given `as_bytes`.
    `opener` opens it, as that of the built-in `open` does.

    Raises:
        UsageError: it is missing, unreadable or no regular file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        as_bytes: bool = False,
        opener: Callable[[str, int], int] = os.open,
    ) -> None:
        self.path: Final = os.fspath(path)
        self.name: Final = os.path.basename(self.path) if name is None else name
        # Whether its variable is of bytes, and not of the text that they are in UTF-8.
        self.as_bytes: Final = as_bytes
        try:
            # A FIFO would be waited for.
            self._fd: Final = opener(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"cannot read {self.path}: {reason}") from error
        weakref.finalize(self, os.close, self._fd)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(
                f"{self.path} is no regular file, which an input has to be that is read in parts"
            )
        self._identity: Final = _identity(found)
        # A mark that says what UTF-8 is in any case is no part of a text.
        marked = not as_bytes and os.pread(self._fd, len(BOM_UTF8), 0) == BOM_UTF8
        self._begin: Final = len(BOM_UTF8) if marked else 0
        self.size: Final = found.st_size - self._begin

    def __len__(self) -> int:
        return self.size

    @property
    def type_name(self) -> str:
        """What its variable is in the guest."""
        return LAZY_TYPES[not self.as_bytes]

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from `offset` on; return how much of it there was.

        Raises:
            InputChanged: the file was written to.
            OSError: it cannot be read.
        """
        wanted = max(0, min(len(buffer), self.size - offset))
        view = memoryview(buffer)
        done = 0
        while done < wanted:
            count = os.preadv(self._fd, [view[done:wanted]], self._begin + offset + done)
            if count == 0:
                break
            done += count
        # Afterwards: what was read before the change is seen as well.
        if done < wanted or _identity(os.fstat(self._fd)) != self._identity:
            raise InputChanged(f"{self.path} was changed while it was an input")
        return done

    def read(self, offset: int, length: int) -> bytes:
        """Return what there is of a part. Raises what `read_into` raises."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        self.read_into(offset, buffer)
        return bytes(buffer)

    def sha256(self) -> str:
        """Return the digest of the whole file. Raises what `read_into` raises."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, HASHED_AT_ONCE_BYTES):
            self.hash_into(digest.update, offset)
        return digest.hexdigest()

    def hash_into(self, update: Callable[[memoryview], None], offset: int) -> None:
        """Give a digest what there is from `offset` on, at most HASHED_AT_ONCE_BYTES.

        Raises what `read_into` raises.
        """
        end, buffer = min(offset + HASHED_AT_ONCE_BYTES, self.size), bytearray(_HASHED_BYTES)
        for at in range(offset, end, _HASHED_BYTES):
            update(memoryview(buffer)[: self.read_into(at, memoryview(buffer)[: end - at])])


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
