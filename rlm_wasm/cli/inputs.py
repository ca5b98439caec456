"""Reading what the user names on the command line, with errors that say what and where."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from rlm_wasm.errors import UsageError

STDIN: Final = "-"


def read_contexts(
    arguments: tuple[str, ...], *, as_bytes: bool, bytes_max: int, stdin_taken: bool = False
) -> dict[str, str | bytes]:
    """Return the contexts by variable name.

    An argument is FILE, NAME=FILE, or - for standard input. Without a name the first is called
    ``context`` and the following ``context_2``, ``context_3``, … `stdin_taken` says that standard input was
    something else already.

    Raises:
        UsageError: a file is missing, unreadable, too large or not UTF-8; a name or standard
            input is used twice.
    """
    contexts: dict[str, str | bytes] = {}
    for position, argument in enumerate(arguments, 1):
        name, file = _split(argument, "context" if position == 1 else f"context_{position}")
        if name in contexts:
            raise UsageError(f"two contexts are called {name}")
        if file == STDIN and stdin_taken:
            raise UsageError("standard input can be read once only")
        stdin_taken = stdin_taken or file == STDIN
        data = _bytes_of(file, bytes_max)
        contexts[name] = data if as_bytes else _text(file, data, "pass --bytes to give it as bytes")
    return contexts


def read_files(arguments: tuple[str, ...], *, bytes_max: int) -> dict[str, bytes]:
    """Return the contents of files by their names without folders.

    Raises:
        UsageError: a file is missing, unreadable or too large, or two have one name.
    """
    files: dict[str, bytes] = {}
    for argument in arguments:
        name = os.path.basename(argument)
        if name in files:
            raise UsageError(f"two files are called {name!a}")
        files[name] = _bytes_of(argument, bytes_max)
    return files


def read_source(file: str, *, bytes_max: int) -> str:
    """Return the Python in a file, or in standard input for ``-``; UsageError as for contexts."""
    # Editors mark a file as UTF-8 with three bytes that are no part of its text, and Python passes over them.
    return _text(file, _bytes_of(file, bytes_max), "save it as UTF-8").removeprefix("\ufeff")


def spare_what_is_read(events_file: str | None, *files: str | None, contexts: tuple[str, ...] = ()) -> None:
    """Raise UsageError if the event log that is to be written is one of the files that are read."""
    if events_file is None or not os.path.isfile(events_file):
        return
    for file in (*files, *(_split(argument, "")[1] for argument in contexts)):
        if file and os.path.exists(file) and os.path.samefile(events_file, file):
            raise UsageError(f"--events {events_file} is a file that this command reads; name another one")


def _split(argument: str, default: str) -> tuple[str, str]:
    name, equals, file = argument.partition("=")
    if equals and name.isidentifier() and file:
        return name, file
    return default, argument


def _bytes_of(file: str, bytes_max: int) -> bytes:
    if not file:
        raise UsageError("the name of a file is empty")  # else Path("") would be the working directory
    try:
        data = _read(file, bytes_max + 1)
    except OSError as error:
        raise UsageError(f"cannot read {_named(file)}: {error.strerror}") from error
    if len(data) > bytes_max:
        raise UsageError(f"{_named(file)} is larger than the {bytes_max} bytes the policy allows")
    return data


def _text(file: str, data: bytes, hint: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{_named(file)} is not UTF-8 text (byte {error.start})", hint=hint) from error


def _named(file: str) -> str:
    return "standard input" if file == STDIN else file


def _read(file: str, count: int) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read(count)
    with Path(file).open("rb") as stream:
        # Not read(count): that would set aside `count` bytes for a file of a few.
        size = Path(file).stat().st_size
        return stream.read(min(count, size)) if size else stream.read(count)
