"""The time that a long piece of work still takes: what is planned of it, at the pace of what is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Seconds of the plan that have to be done before this machine's own pace is known.
_KNOWN_AFTER: Final = 10


class TimeLeft:
    """What of a plan is done; the plan has the seconds that each part takes on one machine, alone.

    Times are a clock's, which only has to go on.
    """

    def __init__(self) -> None:
        self._planned: dict[str, int] = {}
        self._done: dict[str, float] = {}
        self._started = self._moved = 0.0

    def plan(self, parts: Sequence[tuple[str, int]], now: float) -> None:
        """Begin anew with these parts."""
        self._planned, self._done = dict(parts), {}
        self._started = self._moved = now

    def advance(self, part: str, fraction: float, now: float) -> None:
        """Say how far a part is, 0 to 1. A part that is not in the plan counts for nothing."""
        if part in self._planned:
            self._done[part] = fraction
            self._moved = now

    @property
    def fraction(self) -> float:
        """How far the whole is, 0 to 1."""
        total = sum(self._planned.values())
        return min(1.0, self._done_seconds / total) if total else 0.0

    def seconds(self, now: float) -> int | None:
        """How many seconds are left, or None without a plan.

        Between two steps it counts down, but not below what comes after the parts that run.
        """
        if not self._planned:
            return None
        done = self._done_seconds
        pace = (self._moved - self._started) / done if done >= _KNOWN_AFTER else 1.0
        left = (sum(self._planned.values()) - done) * pace - (now - self._moved)
        after = sum(seconds for part, seconds in self._planned.items() if part not in self._done) * pace
        return max(0, round(max(left, after)))

    @property
    def _done_seconds(self) -> float:
        return sum(self._planned[part] * fraction for part, fraction in self._done.items())


def left_text(seconds: int) -> str:
    """Seconds that are left, for people: as exactly as one can know."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 60:
        return f"about {round(seconds, -1)} s left"
    minutes = round(seconds / 30) / 2
    return f"about {minutes:g} min left"
