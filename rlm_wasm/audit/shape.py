"""The size of a JSON line in memory, estimated before it is decoded.

What an event holds is known to be flat, so its brackets and commas say how much it is.
"""

from __future__ import annotations

from typing import Final

from rlm_wasm.json_text import outside_strings

# The longest lists are the roles and the texts of a conversation: two messages a turn, run.turns_max at most
# 10,000.
ITEMS_MAX: Final = 1 << 17
# Of the envelope and its data; the lists of an event stand beside each other.
OBJECTS_MAX: Final = 2
LISTS_MAX: Final = 32
# An int of 64 bits, its sign, and "null", "true", "false".
TOKEN_BYTES_MAX: Final = 20
# A shorter line is small in memory, whatever it holds.
_SMALL_BYTES: Final = 1 << 16


def shape_fault(line: bytes) -> str | None:
    """Return why a line cannot be an event, as far as its size in memory goes; None if it may be one."""
    if len(line) <= _SMALL_BYTES:
        return None
    outside = outside_strings(line, ITEMS_MAX)
    if outside is None:
        return "holds more strings than an event can"
    if outside.count(b"{") > OBJECTS_MAX or outside.count(b"[") > LISTS_MAX:
        return "is nested deeper than an event is"
    if outside.count(b",") > ITEMS_MAX:
        return "holds more items than an event can"
    for mark in (b"[", b"]", b"{", b"}", b":"):
        outside = outside.replace(mark, b",")
    if max(map(len, outside.split(b","))) > TOKEN_BYTES_MAX:
        return "holds what is neither a string nor an int of 64 bits"
    return None
