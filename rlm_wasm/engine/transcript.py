"""The turns of the root's conversation, for the run's result and for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from rlm_wasm.conversation.loop import CellFinished
from rlm_wasm.conversation.observations import cut_text, error_text, format_observation, shown_output
from rlm_wasm.conversation.ran_cell import RanCell
from rlm_wasm.limits import ObservationLimits
from rlm_wasm.results import CellRecord, TurnRecord

# Is given a turn when its reply is there, and each of its cells when that has ended.
Watch: TypeAlias = Callable[[TurnRecord | CellRecord], None]


class Transcript:
    """Turns as they come; how many and how long they are, the policy bounds as it does what they are of."""

    def __init__(self, limits: ObservationLimits, watch: Watch | None = None) -> None:
        self._limits = limits
        self._watch = watch
        self._turns: list[TurnRecord] = []

    @property
    def turns(self) -> tuple[TurnRecord, ...]:
        """What there is so far."""
        return tuple(self._turns)

    def replied(self, text: str) -> None:
        """Begin a turn with the model's reply."""
        self._turns.append(TurnRecord(len(self._turns) + 1, text))
        self._tell(self._turns[-1])

    def ran(self, source: str, end: CellFinished) -> None:
        """Add a cell to the turn, with what the model is to see of it."""
        result = end.result
        cell = RanCell(source, result, result.variables, end.answered, end.answers_cut)
        shown = format_observation(cell, self._limits).strip("\n")
        room = self._limits.bytes_max
        made = CellRecord(
            len(self._turns),
            source,
            shown,
            result.outcome,
            result.fuel_used,
            cut_text(shown_output(result), room),
            cut_text(result.stderr + error_text(result.error), room),
            result.variables,
        )
        turn = self._turns[-1]
        self._turns[-1] = replace(turn, cells=(*turn.cells, made))
        self._tell(made)

    def refused(self, problems: tuple[str, ...]) -> None:
        """Add to the turn what is wrong with the answer that it declared."""
        self._turns[-1] = replace(self._turns[-1], problems=problems)

    def _tell(self, step: TurnRecord | CellRecord) -> None:
        if self._watch is not None:
            self._watch(step)
