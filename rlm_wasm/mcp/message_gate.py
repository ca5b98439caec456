"""The gate for messages of the other side, be it a client or a server: measured before they are decoded.

A decoder makes an object of every few bytes of a text; brackets and commas are counted first.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

from rlm_wasm.json_text import outside_strings
from rlm_wasm.limits import MCP_MESSAGE_NESTING_MAX, MCP_MESSAGE_VALUES_MAX

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}
_ID: Final = rb'"id"\s*:\s*(-?[0-9]{1,18}|"[A-Za-z0-9_.:-]{1,128}")'
# The id of a request where it stands first or last in it: what comes between is of any length.
_ID_FIRST: Final = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"\s*,")
_ID_LAST: Final = re.compile(_ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')
_LAST_BYTES: Final = 256


def refusal_of(message: bytes) -> str | None:
    """Return why a message is not decoded; None: it is."""
    bare = outside_strings(message, MCP_MESSAGE_VALUES_MAX)
    if bare is None or sum(map(bare.count, (b",", b"[", b"{"))) > MCP_MESSAGE_VALUES_MAX:
        return f"a message holds more than {MCP_MESSAGE_VALUES_MAX} values"
    brackets = bare.translate(None, _NOT_BRACKETS)
    depth = max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
    if depth > MCP_MESSAGE_NESTING_MAX:
        return f"a message is nested deeper than {MCP_MESSAGE_NESTING_MAX}"
    return None


def id_of(begin: bytes, end: bytes) -> int | str | None:
    """Return the id of a request that is not decoded, by how it begins and ends; None: it cannot be told."""
    found = _ID_FIRST.match(begin) or _ID_LAST.search(end[-_LAST_BYTES:])
    if found is None:
        return None
    text = found[1].decode()
    return text[1:-1] if text.startswith('"') else int(text)
