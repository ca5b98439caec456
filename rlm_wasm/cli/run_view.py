"""The turns of a run as a person sees them on stderr with -v: words, code, what came of that.

All of it is text of models and guests: `output.clean` takes what a terminal would obey out of each line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rlm_wasm.cli.output import clean
from rlm_wasm.events import Event
from rlm_wasm.outcomes import Outcome
from rlm_wasm.results import CellRecord, TurnRecord

# Of one piece; the log has all of it.
_LINES_MAX: Final = 40
_LINE_CHARS_MAX: Final = 500


class RunView:
    """Writes turns and cells as lines, each piece cut to a number of lines that can be read."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __call__(self, step: TurnRecord | CellRecord) -> None:
        """Take a turn or a cell."""
        if isinstance(step, TurnRecord):
            self._write(f"── turn {step.number}")
            self._lines("  ", step.reply)
            return
        self._write(f"── turn {step.turn}, code")
        self._lines("> ", step.code)
        ended = "" if step.outcome is Outcome.COMPLETED else f" ({step.outcome})"
        self._write(f"── turn {step.turn}, observation{ended}")
        self._lines("< ", step.observation)

    def event(self, event: Event) -> None:
        """Take an event: of an answer that does not fit, say so, and where if the log may hold that."""
        if event.kind != "answer_checked" or event.data["fits"] is True:
            return
        self._write("── the answer does not fit the schema")
        told = event.data.get("problem_texts")
        for each in told if isinstance(told, list) else ():
            self._lines("! ", str(each))

    def _lines(self, mark: str, text: str) -> None:
        lines = clean(text).split("\n")
        for line in lines[:_LINES_MAX]:
            cut = "…" if len(line) > _LINE_CHARS_MAX else ""
            self._write(f"{mark}{line[:_LINE_CHARS_MAX]}{cut}")
        if len(lines) > _LINES_MAX:
            self._write(f"{mark}… and {len(lines) - _LINES_MAX} more lines")
