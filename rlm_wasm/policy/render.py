"""A policy as TOML text again: what is in force, without the comments.

Not by a library: its numbers would lose their underscores, and its texts keep what a terminal obeys.
"""

from __future__ import annotations

from typing import Any

from rlm_wasm.policy.problems import dotted
from rlm_wasm.policy.tables import Tables, as_data


def to_toml(policy: Tables) -> str:
    """Return TOML that `Policy.load` reads back as an equal policy."""
    return "\n\n".join(_tables((), as_data(policy))) + "\n"


def _tables(path: tuple[str, ...], table: dict[str, Any]) -> list[str]:
    values = [f"{name} = {_value(value)}" for name, value in table.items() if not isinstance(value, dict)]
    blocks = ["\n".join([f"[{dotted(path)}]", *values])] if path and (values or not table) else []
    for name, value in table.items():
        if isinstance(value, dict):
            blocks += _tables((*path, name), value)
    return blocks


def _value(value: str | int | list[str]) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}"
    return '"' + "".join(_char(char) for char in value) + '"'


def _char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08X}"
