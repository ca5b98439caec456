"""The wait before the next attempt: exponential, capped, with a jitter that a seed decides."""

from __future__ import annotations

import hashlib
from typing import Final

from rlm_wasm.limits import QueryLimits

_DOUBLINGS_MAX: Final = 32  # beyond this every sane cap is reached; keeps the shift small


def backoff_ms(attempt: int, limits: QueryLimits, unit: float) -> int:
    """Return the wait after failed attempt number `attempt` (from 1), for a `unit` in [0, 1).

    The full wait doubles from `backoff_ms_first` up to `backoff_ms_max`; half of it is certain and
    half is jitter, so that clients who failed together do not come back together.
    """
    doublings = min(max(attempt - 1, 0), _DOUBLINGS_MAX)
    full = min(limits.backoff_ms_first << doublings, limits.backoff_ms_max)
    half = full // 2
    return half + int((full - half) * unit)


def jitter_unit(seed: int, request_id: int, attempt: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed}:{request_id}:{attempt}".encode()).digest()
    # 53 bits: what a float holds exactly, so that the quotient stays below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
