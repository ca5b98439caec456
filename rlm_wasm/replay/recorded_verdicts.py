"""The verdicts of a run's hook, as its log tells them: a replay repeats them and calls no hook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast, get_args

from rlm_wasm.engine.cell_judge import Judgement
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId
from rlm_wasm.replay.recorded_event import ConversationId, int_in, parent_of
from rlm_wasm.scheduler.inputs import CellVerdict

_VERDICTS: Final = get_args(CellVerdict)


class RecordedVerdicts:
    """The judgements of a log, by conversation and cell; of words that are none there is no judgement."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._judgements: Final[dict[tuple[ConversationId, int], Judgement]] = {
            (parent_of(event), int_in(event, "cell")): _judgement(event)
            for event in events
            if event.kind == "cell_judged" and event.data["verdict"] in _VERDICTS
        }

    def __call__(self, parent: RequestId | None, cell: int) -> Judgement | None:
        """Return what was said of a cell."""
        return self._judgements.get((parent, cell))


def _judgement(event: Event) -> Judgement:
    data = event.data
    verdict = cast(CellVerdict, data["verdict"])
    return Judgement(verdict, str(data.get("reason", "")), str(data.get("error", "")))
