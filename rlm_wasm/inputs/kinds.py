"""The kind that a file is given as: text, a value, or bytes; by choice, or by the end of its name."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.packing import Packing


class InputKind(StrEnum):
    """What an input is given as."""

    AUTO = "auto"  # by the end of its name: JSON and JSON lines as values where they can be, else text
    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"  # one JSON value on each line, given as a list
    BYTES = "bytes"  # as they are, neither unpacked nor decoded


_VALUES: Final = {".json": InputKind.JSON, ".jsonl": InputKind.JSONL, ".ndjson": InputKind.JSONL}
_TABLES: Final = (".csv", ".tsv")


def checked_kind(kind: object) -> InputKind:
    """Return a kind by its word. Raises UsageError for no kind."""
    try:
        return InputKind(kind)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"{kind!a} is no kind of input; they are {', '.join(InputKind)}") from error


def kind_by_name(file: str) -> InputKind:
    """Return what a file is by the end of its name, that of its packing aside: text, JSON or JSON lines."""
    name = bare_name(file).lower()
    return next((kind for suffix, kind in _VALUES.items() if name.endswith(suffix)), InputKind.TEXT)


def is_table(file: str) -> bool:
    """Whether a file is a table of texts by the end of its name."""
    return bare_name(file).lower().endswith(_TABLES)


def bare_name(file: str) -> str:
    """Return a file's name without the end that says how it is packed."""
    name = file.lower()
    return next((file[: -len(p.suffix)] for p in Packing if name.endswith(p.suffix)), file)
