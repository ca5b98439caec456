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
    return next((kind for suffix, kind in _VALUES.items() if _bare(file).endswith(suffix)), InputKind.TEXT)


def is_table(file: str) -> bool:
    """Whether a file is a table of texts by the end of its name."""
    return _bare(file).endswith(_TABLES)


def _bare(file: str) -> str:
    name = file.lower()
    return next((name.removesuffix(p.suffix) for p in Packing if name.endswith(p.suffix)), name)
