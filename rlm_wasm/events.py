"""The event stream of a run: frozen, typed, versioned, in one order without gaps.

Each event is one line of JSON in a sink. `seq` counts from 0 within a run; `at_ns` is nanoseconds
since the run began (host monotonic clock); texts of prompts and answers appear only when the
policy grants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.ids import RunId

EVENT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a run. `data` holds only str, int, bool, None and lists of them."""

    v: int
    run_id: RunId
    seq: int
    at_ns: int
    depth: int
    parent: int | None
    kind: str
    data: dict[str, object]
