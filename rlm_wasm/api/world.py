"""`World`: the workers, time and chance of a runtime, where they are not the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns

from rlm_wasm.engine.answer_check import RecordedOutput
from rlm_wasm.engine.broker import Broker
from rlm_wasm.engine.cell_judge import RecalledVerdicts
from rlm_wasm.engine.run_tools import ToolFacts
from rlm_wasm.host.worker import Worker
from rlm_wasm.limits import PermitLimits


@dataclass(frozen=True, slots=True)
class World:
    """Workers, time and chance, for tests and for repeating a run exactly.

    `worker` makes the sessions instead of the policy's kind, and is closed with the runtime; `clock` gives
    the nanoseconds of every deadline and event, and must go as the event loop's own clock does; `entropy(n)`
    gives the random bytes of run ids; `make_broker` makes what performs the scheduler's decisions;
    `verdicts` has what a log says that the hook of its run said of each cell: None, where it had no hook;
    `tools` is what guests are told of tools that nobody has any more; `output` what the answer was to be.
    """

    worker: Worker | None = None
    clock: Callable[[], int] = monotonic_ns
    entropy: Callable[[int], bytes] = os.urandom
    verdicts: RecalledVerdicts | None = None
    tools: ToolFacts | None = None
    output: RecordedOutput | None = None
    make_broker: Callable[[PermitLimits, Callable[[], int]], Broker] = Broker
