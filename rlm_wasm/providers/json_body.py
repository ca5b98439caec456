"""The one gate for JSON that an endpoint sends: bounded in values, total, and without its own types."""

from __future__ import annotations

import json
from typing import Final

from rlm_wasm.json_text import outside_strings

# An answer is text and some facts about it. A body without so many bytes has not so many values.
_VALUES_MAX: Final = 1 << 15
NOT_JSON: Final = object()  # None is what the JSON text `null` means
TOO_MANY_VALUES: Final = object()


def read_json(body: bytes) -> object:
    """Return what the body holds, NOT_JSON or TOO_MANY_VALUES. Raises nothing."""
    return TOO_MANY_VALUES if _holds_too_much(body) else _parse(body)


def member(value: object, name: str) -> object:
    """Return a member of an object; None where there is none, or no object."""
    return value.get(name) if isinstance(value, dict) else None


def first(value: object) -> object:
    """Return the first item of an array; None where there is none, or no array."""
    return value[0] if isinstance(value, list) and value else None


def printable(text: str) -> str:
    """Return the text without what moves a cursor or a reading direction.

    Not cut here: who makes a message of it first looks for the key, and half a key would escape it.
    """
    return "".join(char if char.isprintable() else " " for char in text)


def _holds_too_much(body: bytes) -> bool:
    """Whether decoding a body would make more objects of it than of any answer; text costs nothing."""
    if len(body) <= _VALUES_MAX:
        return False
    outside = outside_strings(body, _VALUES_MAX)
    return outside is None or sum(outside.count(mark) for mark in (b"[", b"{", b",")) > _VALUES_MAX


def _parse(body: bytes) -> object:
    try:
        # UTF-8, as the count of its values took it; `json` would also guess at other encodings.
        return json.loads(body.decode("utf-8-sig"))
    # ValueError: bad JSON, bad UTF-8, or a number of more than 4300 digits.
    except (ValueError, RecursionError):
        return NOT_JSON
