"""A session's random bytes when the policy names a seed: a deterministic stream, one for each session."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from rlm_wasm.limits import SessionLimits


def session_entropy(limits: SessionLimits, session: int) -> Callable[[int], bytes]:
    """Return where a session's random bytes come from.

    Under a seed: from the stream that its limits name, else from that of its number.
    """
    return os.urandom if limits.entropy == "fresh" else seeded_entropy(limits.seed, limits.stream or session)


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
