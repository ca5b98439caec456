"""A session's random bytes when the policy names a seed: a deterministic stream, one for each session."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def seeded_entropy(seed: int, stream: int) -> Callable[[int], bytes]:
    """Return a function that gives the next n bytes of the stream (BLAKE2b in counter mode).

    For replay, not for secrets: whoever knows the seed knows the bytes.
    """
    key = hashlib.blake2b(f"rlm-wasm entropy {seed} {stream}".encode(), digest_size=32).digest()
    counter = 0

    def take(count: int) -> bytes:
        nonlocal counter
        data = bytearray()
        while len(data) < count:
            data += hashlib.blake2b(counter.to_bytes(8, "little"), key=key, digest_size=64).digest()
            counter += 1
        return bytes(data[:count])

    return take
