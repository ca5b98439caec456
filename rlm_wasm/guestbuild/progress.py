"""The progress of a build as values; the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class BuildProgress(Protocol):
    """Receives the build's progress. Two stages may run side by side, each in a thread of its own."""

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        """The stages that will run, with the share of time (any unit) each is expected to take."""

    def begin(self, stage: str, text: str) -> None:
        """A stage starts; `text` says what it does."""

    def advance(self, stage: str, fraction: float) -> None:
        """A running stage is done to `fraction` (0 to 1, never falling)."""

    def end(self, stage: str) -> None:
        """A running stage is finished and published."""

    def note(self, text: str) -> None:
        """One line worth knowing: a fall-back taken, a damaged stage thrown away."""


class Silent:
    """A `BuildProgress` that nobody watches."""

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        pass

    def begin(self, stage: str, text: str) -> None:
        pass

    def advance(self, stage: str, fraction: float) -> None:
        pass

    def end(self, stage: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Steps:
    """How a command shows that it moves on: about `expected` lines that contain `marker`."""

    marker: bytes
    expected: int


def count_steps(
    advance: Callable[[float], None], steps: Steps | None, start: float, stop: float
) -> Callable[[bytes], None]:
    """Return a function that is given a command's lines and says how far it is, from `start` to `stop`."""
    seen = 0

    def on_line(line: bytes) -> None:
        nonlocal seen
        if steps is None or steps.marker not in line:
            return
        seen += 1
        advance(start + (stop - start) * min(seen / steps.expected, 1.0))

    return on_line
