"""Live progress of a run on a terminal's stderr, made from its events alone."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rlm_wasm.cli.output import note
from rlm_wasm.engine.run_tally import RunTally
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy


class RunProgress:
    """A line that says how far the run is and what it has used. Silent where stderr is no terminal."""

    def __init__(self, policy: Policy) -> None:
        self._tally = RunTally(policy)
        self._status = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self._tally.take(event)
        if self._status is not None:
            self._status.update(self.line())

    def above(self, line: str) -> None:
        """Write a line that stays: above the live one, where there is one."""
        if self._status is None:
            note(line)
        else:
            self._status.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def line(self) -> str:
        """Return the line: iteration, children at work, calls, tokens, cost, fuel."""
        return self._tally.line()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
