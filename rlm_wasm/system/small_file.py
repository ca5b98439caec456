"""The beginning of a small file that a user named, whatever it is: also one that is just being written."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from typing import Final

# For so long a named pipe may have nobody who writes to it. Who has it open is waited for as by any program.
_WRITER_MS_MAX: Final = 10_000
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def read_beginning(path: Path, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes of a file, or all that there are.

    Raises:
        OSError: it cannot be read, or is a pipe that nobody writes to. ValueError: the name has a NUL.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        return _read(descriptor, bytes_max)
    finally:
        os.close(descriptor)


def _read(descriptor: int, bytes_max: int) -> bytes:
    came = select.poll()
    came.register(descriptor, select.POLLIN)
    # A pipe ends where nobody has it open any more; before anybody had, it has not begun.
    begun = not stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    waited = False
    data = bytearray()
    while len(data) < bytes_max:
        try:
            piece = os.read(descriptor, bytes_max - len(data))
        except BlockingIOError:  # somebody has it open, and says nothing yet
            begun = True
            came.poll()
            continue
        data += piece
        if not piece:
            if begun:
                break
            if waited:
                raise OSError(errno.ETIMEDOUT, "it is a pipe that nobody writes to")
            begun = bool(came.poll(_WRITER_MS_MAX))
            waited = True
        else:
            begun = True
    return bytes(data)
