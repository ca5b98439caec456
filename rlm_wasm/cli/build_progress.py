"""Draws the guest build's progress on stderr: a bar on a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

_STEPS: Final = 1000


class _Shares:
    """How far the whole build is, from the planned seconds of its stages."""

    def __init__(self) -> None:
        self._planned: dict[str, int] = {}
        self._done = 0
        self._stage = ""

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        self._planned, self._done, self._stage = dict(stages), 0, ""

    def begin(self, stage: str) -> None:
        self._stage = stage

    def end(self) -> None:
        self._done += self._planned.get(self._stage, 0)
        self._stage = ""

    def fraction(self, within: float) -> float:
        running = self._planned.get(self._stage, 0)
        total = max(1, sum(self._planned.values()))
        return min(1.0, (self._done + running * within) / total)


class PlainProgress:
    """One line when a stage begins, one when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = 0.0

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        pass

    def begin(self, stage: str, text: str) -> None:
        self._began = time.monotonic()
        self._line(f"{stage}: {text}")

    def advance(self, fraction: float) -> None:
        pass

    def end(self) -> None:
        self._line(f"  done in {time.monotonic() - self._began:.1f} s")

    def note(self, text: str) -> None:
        self._line(f"note: {text}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class BarProgress(PlainProgress):
    """A bar over the whole build; finished stages scroll away above it."""

    def __init__(self, console: Console, bar: Progress) -> None:
        super().__init__(console)
        self._bar, self._shares, self._text = bar, _Shares(), ""
        self._task = bar.add_task("looking at what is there", total=_STEPS)

    def plan(self, stages: Sequence[tuple[str, int]]) -> None:
        self._shares.plan(stages)
        self.advance(0.0)

    def begin(self, stage: str, text: str) -> None:
        self._began, self._text = time.monotonic(), text
        self._shares.begin(stage)
        self._bar.update(self._task, description=text)

    def advance(self, fraction: float) -> None:
        self._bar.update(self._task, completed=int(self._shares.fraction(fraction) * _STEPS))

    def end(self) -> None:
        self._shares.end()
        self.advance(0.0)
        self._line(f"{self._text}: {time.monotonic() - self._began:.1f} s")


@contextmanager
def build_progress() -> Iterator[PlainProgress]:
    """Yield the `Progress` that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield BarProgress(console, bar)
