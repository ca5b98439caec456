"""One request's life as a table, and the five ways it can end.

A request is RECEIVED, reserves and is QUEUED for a permit, is DISPATCHED while a provider works on
it, may go to BACKOFF and queue again, and is ANSWERED once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, TypeAlias

from rlm_wasm.errors import InternalError, QueryCancelled, QueryError, QueryTimeout
from rlm_wasm.scheduler.messages import FinishReason, Usage


# StrEnum and not Enum: its members are hashed in C, and a table is looked up three times a query.
class RequestState(StrEnum):
    """Where a request is. Only QUEUED and DISPATCHED hold a reservation, only DISPATCHED a permit."""

    RECEIVED = "received"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    BACKOFF = "backoff"
    ANSWERED = "answered"


class RequestStep(StrEnum):
    """What moves a request on."""

    RESERVE = "reserve"  # the ledger agreed to the next attempt
    DISPATCH = "dispatch"  # a permit was granted and the query goes out
    BACK_OFF = "back_off"  # the attempt failed and another one is allowed
    ANSWER = "answer"  # the one terminal response


TRANSITIONS: Final[dict[RequestState, dict[RequestStep, RequestState]]] = {
    RequestState.RECEIVED: {
        RequestStep.RESERVE: RequestState.QUEUED,
        RequestStep.ANSWER: RequestState.ANSWERED,
    },
    RequestState.QUEUED: {
        RequestStep.DISPATCH: RequestState.DISPATCHED,
        RequestStep.ANSWER: RequestState.ANSWERED,
    },
    RequestState.DISPATCHED: {
        RequestStep.BACK_OFF: RequestState.BACKOFF,
        RequestStep.ANSWER: RequestState.ANSWERED,
    },
    RequestState.BACKOFF: {
        RequestStep.RESERVE: RequestState.QUEUED,
        RequestStep.ANSWER: RequestState.ANSWERED,
    },
    RequestState.ANSWERED: {},  # terminal: a second answer has nowhere to go
}


def next_state(state: RequestState, step: RequestStep) -> RequestState:
    """Return the state after `step`; a step the table does not have is an InternalError."""
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise InternalError(f"a {state.value} request cannot {step.value}") from None


@dataclass(frozen=True, slots=True)
class Completed:
    """The model answered. `usage` is None when the provider did not say, or said nonsense.

    `window_tokens` is what the model holds, as far as that is known by then.
    """

    status: ClassVar[str] = "completed"
    text: str
    usage: Usage | None
    finish: FinishReason | None = None
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider failed, and no further attempt was allowed or worth making."""

    status: ClassVar[str] = "failed"
    error: QueryError


@dataclass(frozen=True, slots=True)
class Denied:
    """The budget or the policy refused the request, or its next attempt."""

    status: ClassVar[str] = "denied"
    error: QueryError


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline came first; it covers the wait for a permit, every attempt and every backoff."""

    status: ClassVar[str] = "timed_out"
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run ended before an answer came."""

    status: ClassVar[str] = "cancelled"
    reason: str


Response: TypeAlias = Completed | Failed | Denied | TimedOut | Cancelled


def error_of(response: Response) -> QueryError | None:
    """Return the typed error that stands for `response`, or None if it completed."""
    match response:
        case Completed():
            return None
        case Failed(error) | Denied(error):
            return error
        case TimedOut(timeout_ms):
            return QueryTimeout(f"no answer within {timeout_ms} ms")
        case Cancelled(reason):
            return QueryCancelled(f"the run ended first: {reason}")
