"""The structure of a JSON text outside its strings, seen without decoding it.

A decoder makes an object of every few bytes: 64 MiB of `[],[],…` are 1.6 GB and twenty seconds. Brackets and
commas can be counted first, at the speed of memory.
"""

from __future__ import annotations


def outside_strings(text: bytes, strings_max: int) -> bytes | None:
    """Return a UTF-8 JSON text without its strings; None if it has more of them than `strings_max`.

    Of a text that is no JSON, the result says nothing. It has what stands between two strings side by side.
    """
    # A run of backslashes is used up by pairs, from its left: what is left escapes the quote behind it.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    if bare.count(b'"') > 2 * strings_max:
        return None
    return b"".join(bare.split(b'"')[::2])
