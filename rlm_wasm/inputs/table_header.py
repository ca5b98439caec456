"""The names of a table's columns, from the first line of its text, for the model to be told."""

from __future__ import annotations

import csv
from typing import Final

_LOOKED_AT_CHARS: Final = 65_536
_SEPARATORS: Final = ",;\t|"
COLUMNS_SHOWN_MAX: Final = 40
NAME_CHARS_MAX: Final = 60


def header_note(text: str) -> str:
    """Return what its first line says of a table; an empty text where that says nothing."""
    if len(text) > _LOOKED_AT_CHARS and "\n" not in text[:_LOOKED_AT_CHARS]:
        return ""
    columns = max((_columns(text[:_LOOKED_AT_CHARS], each) for each in _SEPARATORS), key=len)
    if not any(columns):
        return ""
    shown = ", ".join(repr(name[:NAME_CHARS_MAX]) for name in columns[:COLUMNS_SHOWN_MAX])
    more = f" and {len(columns) - COLUMNS_SHOWN_MAX} more" if len(columns) > COLUMNS_SHOWN_MAX else ""
    word = "column" if len(columns) == 1 else "columns"
    return f"a table whose first line names {len(columns)} {word}: {shown}{more}"


def _columns(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(text.split("\n"), delimiter=separator), [])
    except csv.Error:  # a NUL, or a field that goes on and on
        return []
