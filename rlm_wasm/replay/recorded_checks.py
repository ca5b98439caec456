"""The checks of a run's answers, as its log tells them: a replay repeats them and reads no answer anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rlm_wasm.events import Event

_NO_WORDS: Final = "$: the log does not say what was wrong"


class RecordedChecks:
    """The checks of a log, in order. One that stands in no event was of an answer that ended its run."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._checks: Final[list[tuple[str, ...]]] = []
        self._ended_declared = False
        for event in events:
            if event.kind == "answer_checked":
                self._checks.append(_problems(event))
            elif event.kind == "run_answered":
                self._ended_declared = event.data["partial"] is False

    def __call__(self, number: int) -> tuple[str, ...] | None:
        """Return the problems of an answer, by its number from 0; none where it fits."""
        if number < len(self._checks):
            return self._checks[number]
        # The run was being ended when this one was checked: that stands in no event.
        return () if self._ended_declared and number == len(self._checks) else None


def _problems(event: Event) -> tuple[str, ...]:
    if event.data["fits"] is True:
        return ()
    texts = event.data.get("problem_texts")
    told = tuple(text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    return told or (_NO_WORDS,)
