"""Whether a worker that is silent hangs: a pure decision over wall time and the CPU time it has used."""

from __future__ import annotations

from typing import Final

_MS: Final = 1_000_000
# Less CPU time than this in all its silence: it is stopped, or waits for what never comes.
_STILL_MS: Final = 20
# However little the machine lets it run, at some point its sessions have waited long enough.
_PATIENCE_FACTOR: Final = 10


def hangs(silent_ns: int, cpu_ms_used: int | None, hang_ms_max: int, *, copies: bool = False) -> bool:
    """Whether to end a worker that has owed a sign of life for `silent_ns`.

    `cpu_ms_used` is what it has used meanwhile, None if unknown. A worker gives a sign between two
    slices, so a second of its own CPU time without one is as bad as a second in which it did nothing;
    in between it merely got little of a busy machine. `copies`: it opens, rebases or images a session,
    which copies as much memory as a session may have and gives no sign meanwhile.
    """
    if silent_ns < hang_ms_max * _MS:
        return False
    if cpu_ms_used is None or cpu_ms_used < min(_STILL_MS, hang_ms_max):
        return True
    if not copies and cpu_ms_used >= hang_ms_max:
        return True
    return silent_ns >= _PATIENCE_FACTOR * hang_ms_max * _MS


def stands_still(cpu_ms_before: int | None, cpu_ms_now: int | None) -> bool:
    """Whether a process that has something to do did nothing between two looks. Not if nobody can tell."""
    return cpu_ms_before is not None and cpu_ms_now is not None and cpu_ms_now - cpu_ms_before < _STILL_MS
