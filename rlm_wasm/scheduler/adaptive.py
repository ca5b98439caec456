"""The permits of a provider: fewer when it says "too many requests", more as time passes.

Additive increase, multiplicative decrease, in integers; a function of what happened and when.

| what happened | permits |
|---|---|
| a refusal of a query sent after the last cut | half, not below `least` |
| a refusal of one sent before it | as they are: it is the same overload |
| an answer | plus 1/permits: one more for a round of answers |
| `recover_ms` pass | one more |

They never exceed `most`.
"""

from __future__ import annotations

from typing import Final

_MILLI: Final = 1_000
_NS_PER_MS: Final = 1_000_000


class AdaptiveLimit:
    """One provider's number of permits, kept in thousandths."""

    def __init__(self, most: int, least: int, recover_ms: int) -> None:
        self._most: Final = most * _MILLI
        self._least: Final = min(least, most) * _MILLI
        self._recover_ns: Final = recover_ms * _NS_PER_MS
        self._milli = self._most
        self._cut_ns = -1  # when it was last halved
        self._grown_ns = 0  # up to when passing time has been credited

    def permits(self, now_ns: int) -> int:
        """Return how many there are now."""
        if self._milli < self._most:
            steps = max(0, now_ns - self._grown_ns) // self._recover_ns
            if steps:
                self._grown_ns += steps * self._recover_ns
                self._grow(steps * _MILLI)
        return self._milli // _MILLI

    def refused(self, sent_ns: int, now_ns: int) -> bool:
        """Take a "too many requests" to a query sent at `sent_ns`; return whether it cuts."""
        if sent_ns <= self._cut_ns:
            return False
        self.permits(now_ns)  # what time has given back by now is cut, too
        self._milli = max(self._least, self._milli // 2)
        self._cut_ns = self._grown_ns = now_ns
        return True

    def answered(self) -> None:
        """Take an answer."""
        if self._milli < self._most:
            self._grow(_MILLI * _MILLI // self._milli)

    def _grow(self, milli: int) -> None:
        self._milli = min(self._most, self._milli + milli)
