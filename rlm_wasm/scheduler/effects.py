"""The effects: everything the scheduler can ask the engine to do, performed in the order given."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.request import Response


class SendQuery(NamedTuple):
    """Send this to the model's provider; answer with ProviderAnswered or ProviderFailed.

    More than `answer_bytes_max` in an answer is a failure: there is no room for it where it goes.
    """

    run_id: RunId
    request_id: RequestId
    attempt: int
    model: str
    messages: tuple[Message, ...]
    output_tokens_max: int
    timeout_ms: int
    answer_bytes_max: int


class CancelQuery(NamedTuple):
    """Stop working on this attempt. A result that still comes may be reported: it settles the ledger."""

    run_id: RunId
    request_id: RequestId
    attempt: int


class CallTool(NamedTuple):
    """Have a tool called, and report ToolFinished. More than `answer_bytes_max` is no result."""

    run_id: RunId
    request_id: RequestId
    tool: str
    arguments: str
    answer_bytes_max: int | None


class CancelTool(NamedTuple):
    """Nobody waits for this call any more. A result that still comes does nothing."""

    run_id: RunId
    request_id: RequestId


class StartChild(NamedTuple):
    """Drive a conversation that answers `question`, in a session of its own; report ChildFinished.

    It was asked for by the conversation that answers `parent`; `depth` is its own. With more than
    `answer_bytes_max` in its answer it has none.
    """

    run_id: RunId
    request_id: RequestId
    depth: int
    model: str
    question: str
    parent: RequestId | None
    answer_bytes_max: int | None = None


class StopChild(NamedTuple):
    """End a child with the best answer it has, then report ChildFinished. Sent once a child, at most."""

    run_id: RunId
    request_id: RequestId
    stop: StopReason


class GiveFuel(NamedTuple):
    """Let the cell that a conversation begins, or that asked, use so much more; 0: nothing is left for it.

    `parent` is the request that the conversation answers; None: the root's.
    """

    run_id: RunId
    parent: RequestId | None
    fuel: int


class Respond(NamedTuple):
    """Hand the request its one terminal response."""

    run_id: RunId
    request_id: RequestId
    response: Response


class RefuseSurplus(NamedTuple):
    """Hand requests that follow each other in number their responses: so many the same, from `first` on."""

    run_id: RunId
    first: RequestId
    refusals: tuple[tuple[Response, int], ...]


class SetTimer(NamedTuple):
    """Report TimerFired at `at_ns` of the clock that `handle` is given, or soon after."""

    run_id: RunId
    timer_id: str
    at_ns: int


class ClearTimer(NamedTuple):
    """Forget this timer."""

    run_id: RunId
    timer_id: str


class EmitEvent(NamedTuple):
    """Write this event to the run's sinks."""

    event: Event


class EndRun(NamedTuple):
    """Stop the run's guests and loops, then report RunEnded. Sent once a run; its requests have ended."""

    run_id: RunId
    stop: StopReason


Effect: TypeAlias = (
    SendQuery
    | CancelQuery
    | CallTool
    | CancelTool
    | StartChild
    | StopChild
    | GiveFuel
    | Respond
    | RefuseSurplus
    | SetTimer
    | ClearTimer
    | EmitEvent
    | EndRun
)
