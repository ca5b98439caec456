"""A place in a value, as a JSON path: `$.items[2].price`; and what is wrong there, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEY_CHARS_MAX: Final = 80
_PATH_CHARS_MAX: Final = 300
_PROBLEM_CHARS_MAX: Final = 400


def json_path(parts: Iterable[str | int]) -> str:
    """Return the path. Keys are the answer's: cut, and as Python writes them where they are no names."""
    path = "$" + "".join(_step(part) for part in parts)
    return path if len(path) <= _PATH_CHARS_MAX else path[:_PATH_CHARS_MAX] + "…"


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    if len(part) <= _KEY_CHARS_MAX and _NAME.match(part):
        return f".{part}"
    return f"[{part[:_KEY_CHARS_MAX]!r}{'…' if len(part) > _KEY_CHARS_MAX else ''}]"


def problem(parts: Iterable[str | int], message: str) -> str:
    """Return one line that says where and what."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in message[:_PROBLEM_CHARS_MAX])
    return f"{json_path(parts)}: {line}{'…' if len(message) > _PROBLEM_CHARS_MAX else ''}"


def parts_within(
    value: Any, place: Iterable[str | int], *, absent: bool
) -> tuple[list[str | int], list[str]]:
    """Take apart what a checker says of a place: the steps that lead into the value, and words beside them.

    A checker of types also names the member of a union that it tried, which is no step. `absent`: the last
    one is a key that is not there.
    """
    parts: list[str | int] = []
    others: list[str] = []
    *steps, last = [*place, None]
    if absent and steps:
        last = steps.pop()
    for step in steps:
        held = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if step in held:
            parts.append(step)
            value = value[step]
        else:
            others.append(str(step)[:_KEY_CHARS_MAX])
    return (parts if last is None else [*parts, last]), others
