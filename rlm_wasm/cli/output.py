"""Terminal output. Text of guests and models loses its control characters on the way."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import Any, Final

import click

from rlm_wasm.errors import UsageError

# C0 and C1 control characters but tab and newline, and the characters that reorder text.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Return `text` without what could move a cursor, recolour a screen or hide itself."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def untrusted(text: str, *, err: bool = False, newline: bool = False) -> None:
    """Write a guest's or model's text: cleaned on a terminal, as it is into a pipe or file."""
    stream = sys.stderr if err else sys.stdout
    shown = clean(text) if stream.isatty() else text
    data = shown.encode("utf-8", "replace")
    _write(data + (b"\n" if newline and not data.endswith(b"\n") else b""), nl=False, err=err)


def document(value: dict[str, Any] | list[Any]) -> None:
    """Write one JSON document to stdout."""
    _write(json.dumps(value, indent=2, ensure_ascii=True))


def _write(text: str | bytes, *, nl: bool = True, err: bool = False) -> None:
    try:
        click.echo(text, nl=nl, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write the output: {error.strerror}") from error


def note(text: str) -> None:
    """Write one line for the person to stderr, if that can be written to."""
    with contextlib.suppress(OSError):
        click.echo(clean(text), err=True)


def failure(message: str, hint: str | None = None) -> None:
    """Write an error, and what to do about it, to stderr."""
    note(f"error: {message}")
    if hint:
        note(f"hint: {hint}")
