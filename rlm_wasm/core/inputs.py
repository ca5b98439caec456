"""Everything that can happen to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rlm_wasm.core.limits import BoundaryLimits, BudgetLimits, ModelPrice, QueryLimits, RunLimits
from rlm_wasm.core.messages import Message, Usage
from rlm_wasm.errors import ProviderError
from rlm_wasm.ids import RequestId, RunId

Origin = Literal["root", "guest"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins: one question, one ledger.

    A model without an entry in `prices` is refused. `texts` puts prompts and answers into events.
    """

    run_id: RunId
    budget: BudgetLimits
    run: RunLimits
    query: QueryLimits
    boundary: BoundaryLimits
    prices: Mapping[str, ModelPrice]
    seed: int
    texts: bool = False


@dataclass(frozen=True, slots=True)
class IterationStarted:
    """The root model is about to get its next turn. An EndRun comes back if no turn is left."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class QueryReceived:
    """Somebody wants model output. `request_id` is chosen by the host, never twice in a run.

    `depth` is that of the caller, `parent` the request the caller itself answers, and `group` is
    shared by the items of one batch. The root model's own completions have origin "root".
    """

    run_id: RunId
    request_id: RequestId
    depth: int
    origin: Origin
    model: str
    prompt_messages: tuple[Message, ...]
    output_tokens_max: int | None = None
    group: int | None = None
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderAnswered:
    """An attempt brought text. It may be late: after the deadline, or after a cancellation."""

    run_id: RunId
    request_id: RequestId
    attempt: int
    text: str
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class ProviderFailed:
    """An attempt failed. `sent` is whether the provider may bill for it (True when in doubt)."""

    run_id: RunId
    request_id: RequestId
    attempt: int
    error: ProviderError
    retryable: bool
    sent: bool
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by SetTimer came due. One that was cleared meanwhile is ignored."""

    run_id: RunId
    timer_id: str


@dataclass(frozen=True, slots=True)
class FuelUsed:
    """A cell used fuel. It already happened, so it is counted even beyond the limit."""

    run_id: RunId
    fuel: int


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the scheduler does not decide about, but that has its place among the run's events."""

    run_id: RunId
    kind: str
    data: dict[str, object]
    depth: int = 0
    parent: RequestId | None = None


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody outside wants the run stopped. Its requests end now; RunEnded is still due."""

    run_id: RunId
    reason: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run's guest is gone and nothing more will be asked. Its state is removed."""

    run_id: RunId
    outcome: str = "finished"


InputInRun: TypeAlias = (
    IterationStarted
    | QueryReceived
    | ProviderAnswered
    | ProviderFailed
    | TimerFired
    | FuelUsed
    | Noted
    | RunCancelled
    | RunEnded
)
Input: TypeAlias = RunStarted | InputInRun
