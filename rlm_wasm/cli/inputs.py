"""Reading what the user names on the command line, with errors that say what and where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from rlm_wasm.errors import UsageError

STDIN: Final = "-"


def read_contexts(arguments: tuple[str, ...], *, as_bytes: bool, bytes_max: int) -> dict[str, str | bytes]:
    """Return the contexts by variable name.

    An argument is FILE, NAME=FILE, or - for standard input. Without a name the first is called
    ``context`` and the following ``context_2``, ``context_3``, …

    Raises:
        UsageError: a file is missing, unreadable, too large or not UTF-8; a name or standard
            input is used twice.
    """
    contexts: dict[str, str | bytes] = {}
    stdin_taken = False
    for position, argument in enumerate(arguments, 1):
        name, file = _split(argument, "context" if position == 1 else f"context_{position}")
        if name in contexts:
            raise UsageError(f"two contexts are called {name}")
        if file == STDIN and stdin_taken:
            raise UsageError("standard input can be one context only")
        stdin_taken = stdin_taken or file == STDIN
        contexts[name] = read_file(file, as_bytes=as_bytes, bytes_max=bytes_max)
    return contexts


def _split(argument: str, default: str) -> tuple[str, str]:
    name, equals, file = argument.partition("=")
    if equals and name.isidentifier() and file:
        return name, file
    return default, argument


def read_file(file: str, *, as_bytes: bool, bytes_max: int) -> str | bytes:
    """Return the contents of a file, or of standard input for ``-``, as UTF-8 text or as bytes."""
    if not file:
        raise UsageError("the name of a file is empty")  # else Path("") would be the working directory
    where = "standard input" if file == STDIN else file
    try:
        data = _read(file, bytes_max + 1)
    except OSError as error:
        raise UsageError(f"cannot read {where}: {error.strerror}") from error
    if len(data) > bytes_max:
        raise UsageError(f"{where} is larger than the {bytes_max} bytes the policy allows")
    if as_bytes:
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8 text (byte {error.start})", hint="pass --bytes to give it as bytes"
        ) from error


def _read(file: str, count: int) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read(count)
    with Path(file).open("rb") as stream:
        # Not read(count): that would set aside `count` bytes for a file of a few.
        size = Path(file).stat().st_size
        return stream.read(min(count, size)) if size else stream.read(count)
