"""A policy as TOML text again: all that is in force, with the comments where they are wanted.

Not by a library: its numbers would lose their underscores, and its texts keep what a terminal obeys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rlm_wasm.policy.lines import HEAD, TAIL, Remark
from rlm_wasm.policy.problems import Key
from rlm_wasm.policy.tables import Tables, as_data

Remarks = Mapping[Key, Remark]
_NO_REMARKS: Final[Remarks] = {}
_NO_REMARK: Final = Remark()
# Texts beyond this are written on several lines: `document` reads none of more than 4,096 characters.
_STRING_LINE_CHARS_MAX: Final = 1_000


def to_toml(policy: Tables) -> str:
    """Return TOML that `Policy.load` reads back as an equal policy; its digest is what event logs state."""
    return "\n\n".join(_tables((), as_data(policy), _NO_REMARKS)) + "\n"


def with_comments(policy: Tables, remarks: Remarks) -> str:
    """Return the same with the comments of the files that it was read from."""
    ends = ("\n".join(_safe(remarks.get(end, _NO_REMARK).above)) for end in (HEAD, TAIL))
    head, tail = ends
    return "\n\n".join(filter(None, (head, *_tables((), as_data(policy), remarks), tail))) + "\n"


def _tables(path: tuple[str, ...], table: dict[str, Any], remarks: Remarks) -> Iterator[str]:
    lines = [
        line
        for name, value in table.items()
        if not isinstance(value, dict)
        for line in _remarked(f"{_key(name)} = {_value(value)}", remarks.get((*path, name), _NO_REMARK))
    ]
    own = remarks.get(path, _NO_REMARK)
    if path and (lines or not table or own != _NO_REMARK):
        yield "\n".join([*_remarked(f"[{'.'.join(map(_key, path))}]", own), *lines])
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _tables((*path, name), value, remarks)


def _remarked(text: str, remark: Remark) -> list[str]:
    behind = f"  {_safe((remark.behind,))[0]}" if remark.behind else ""
    return [*_safe(remark.above), text + behind]


def _safe(lines: tuple[str, ...]) -> list[str]:
    # A comment may hold what a terminal obeys, or what reorders a line; a tab is neither.
    return [
        "".join(char if char.isprintable() or char == "\t" else _escape(char) for char in line)
        for line in lines
    ]


def _key(name: str) -> str:
    bare = name and all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
    return name if bare else _quoted(name)


def _value(value: str | float | list[Any] | dict[str, Any]) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):  # in a list: a table in a table has lines of its own
        return "{" + ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return repr(value)
    line = _quoted(value)
    return line if len(line) <= _STRING_LINE_CHARS_MAX else _on_lines(value)


def _quoted(value: str) -> str:
    return '"' + "".join(map(_char, value)) + '"'


def _on_lines(value: str) -> str:
    """Return a long text on lines of its own, none of which is too long to be read."""
    lines = [""]
    for char in value:
        if len(lines[-1]) >= _STRING_LINE_CHARS_MAX:
            lines[-1] += "\\"  # goes on below, where blanks that are not written out would be lost
            lines.append(_escape(char) if char in " \n" else _char(char))
        elif char == "\n":
            lines.append("")
        else:
            lines[-1] += _char(char)
    return '"""\n' + "\n".join(lines) + '"""'


def _char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else _escape(char)


def _escape(char: str) -> str:
    return f"\\U{ord(char):08X}"
