"""Everything the scheduler can ask the runtime to do. Effects are performed in the order given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rlm_wasm.core.messages import Message
from rlm_wasm.core.request import Response
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId, RunId


@dataclass(frozen=True, slots=True)
class SendQuery:
    """Send this to the model's provider; answer with ProviderAnswered or ProviderFailed."""

    run_id: RunId
    request_id: RequestId
    attempt: int
    model: str
    messages: tuple[Message, ...]
    output_tokens_max: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class CancelQuery:
    """Stop working on this attempt. A result that still comes may be reported: it settles the ledger."""

    run_id: RunId
    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class Respond:
    """Hand the request its one terminal response."""

    run_id: RunId
    request_id: RequestId
    response: Response


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Report TimerFired at `at_ns` of the clock that `handle` is given, or soon after."""

    run_id: RunId
    timer_id: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class ClearTimer:
    """Forget this timer."""

    run_id: RunId
    timer_id: str


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Write this event to the run's sinks."""

    event: Event


@dataclass(frozen=True, slots=True)
class EndRun:
    """Stop the run's guest and loop, then report RunEnded. Sent once a run; its requests have ended."""

    run_id: RunId
    reason: str


Effect: TypeAlias = SendQuery | CancelQuery | Respond | SetTimer | ClearTimer | EmitEvent | EndRun
