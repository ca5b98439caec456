"""The streams of random bytes that forks draw from under a seed: each its own, the same in each program."""

from __future__ import annotations

import hashlib
from typing import Final

# Above every number that a session of no fork has as its stream, and inside of 63 bits.
_FORKS: Final = 1 << 62


def fork_stream(origin: int, number: int) -> int:
    """Return the stream of what is made as the `number`th of something with the stream `origin`."""
    digest = hashlib.blake2b(f"rlm-wasm fork {origin} {number}".encode(), digest_size=8).digest()
    return _FORKS | int.from_bytes(digest, "little") % _FORKS
