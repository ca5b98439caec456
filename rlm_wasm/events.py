"""The event stream of a run: frozen, typed, versioned, in one order without gaps.

Each event is one line of JSON in a sink. `seq` counts from 0 within a run; `at_ns` is nanoseconds
since the run began (host monotonic clock); texts of prompts and answers appear only when the
policy grants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from rlm_wasm.ids import RunId

# Raised when a kind or field is taken away or changes its meaning; new ones may come without it.
EVENT_VERSION: Final = 1


# Each query makes three. The collector passes over them: with what `data` holds, none is in a cycle.
class Event(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened in a run. `data` holds only str, int, bool, None and lists of them."""

    v: int
    run_id: RunId
    seq: int
    at_ns: int
    depth: int
    parent: int | None
    kind: str
    data: dict[str, object]


@dataclass(frozen=True, slots=True)
class Gap:
    """What a reader that was too slow did not get: `count` events, from `first_seq` to `last_seq`."""

    first_seq: int
    last_seq: int

    @property
    def count(self) -> int:
        """How many events are missing here."""
        return self.last_seq - self.first_seq + 1
