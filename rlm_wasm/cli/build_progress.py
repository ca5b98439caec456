"""Draws the guest build's progress on stderr: a bar, or plain lines, and how long is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rlm_wasm.cli.time_left import TimeLeft, left_text

_STEPS: Final = 1000


class PlainProgress:
    """One line when a stage begins, with what is left of the whole, and one when it ends."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._left = TimeLeft()
        # Stages run side by side, and a bar is drawn in a thread of its own.
        self._lock = threading.RLock()
        # The stages that run: since when, and what they do.
        self._running: dict[str, tuple[float, str]] = {}

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        with self._lock:
            self._left.plan(stages, self._clock())

    def begin(self, stage: str, text: str) -> None:
        self._begin(stage, text)
        left = self.left
        self._line(f"{stage}: {text}{f' ({left})' if left else ''}")

    def advance(self, stage: str, fraction: float) -> None:
        with self._lock:
            self._left.advance(stage, fraction, self._clock())

    def end(self, stage: str) -> None:
        self._line(f"{stage}: done in {self._end(stage):.1f} s")

    def note(self, text: str) -> None:
        self._line(f"note: {text}")

    @property
    def left(self) -> str:
        """The time that is left, or nothing where nobody knows."""
        with self._lock:
            seconds = self._left.seconds(self._clock())
        return "" if seconds is None else left_text(seconds)

    def _begin(self, stage: str, text: str) -> None:
        with self._lock:
            self._running[stage] = self._clock(), text
            self._left.advance(stage, 0.0, self._clock())

    def _end(self, stage: str) -> float:
        with self._lock:
            self._left.advance(stage, 1.0, self._clock())
            return self._clock() - self._running.pop(stage)[0]

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class BarProgress(PlainProgress):
    """A bar over the whole build; finished stages scroll away above it."""

    def __init__(self, console: Console, bar: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._bar = bar
        self._task = bar.add_task("looking at what is there", total=_STEPS)

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        super().plan(stages)
        self._show()

    def begin(self, stage: str, text: str) -> None:
        self._begin(stage, text)
        self._show()

    def advance(self, stage: str, fraction: float) -> None:
        super().advance(stage, fraction)
        self._show()

    def end(self, stage: str) -> None:
        text = self._running[stage][1]
        self._line(f"{text}: {self._end(stage):.1f} s")
        self._show()

    def _show(self) -> None:
        with self._lock:
            text = next((text for _, text in reversed(self._running.values())), None)
            self._bar.update(self._task, description=text, completed=int(self._left.fraction * _STEPS))


class _LeftColumn(ProgressColumn):
    """The time that is left, beside the bar."""

    def __init__(self) -> None:
        super().__init__()
        self.text: Callable[[], str] = str

    def render(self, task: Task) -> Text:
        return Text(self.text(), style="progress.remaining")


@contextmanager
def build_progress() -> Iterator[PlainProgress]:
    """Yield the `Progress` that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    left = _LeftColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), left)
    with Progress(*columns, console=console, transient=True) as bar:
        progress = BarProgress(console, bar)
        left.text = lambda: progress.left
        yield progress
