"""Turns in a row in which a model did the same and was shown the same, counted for the loop that stops it."""

from __future__ import annotations

from typing import Final


class Repeats:
    """Counts how often in a row a turn was repeated. `most` is how often it may be; 0: any number.

    A model is told from half of them on: who merely forgot to print what changed can say so by printing it.
    """

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self._last: tuple[str, ...] | None = None
        self._times = 0

    @property
    def times(self) -> int:
        """How often in a row the turns before the last one were the same as it."""
        return self._times

    @property
    def must_be_told(self) -> bool:
        """Whether the model is to be told of it."""
        return self._times > 0 and self._times >= (self.most + 1) // 2

    @property
    def too_many(self) -> bool:
        """Whether the conversation is to end."""
        return self._times > self.most

    def turn(self, done: tuple[str, ...]) -> None:
        """Take what a turn did, asked others and was shown."""
        if self.most:
            self._times = self._times + 1 if done == self._last else 0
            self._last = done
