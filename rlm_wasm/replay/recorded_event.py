"""One event of a recorded run: whose it is, what from outside caused it, where another differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rlm_wasm.engine.recorded_answers import provider_error
from rlm_wasm.errors import (
    ChildFailed,
    InternalError,
    LimitExceeded,
    QueryError,
    ToolArgumentError,
    ToolError,
    ToolTimeout,
)
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.inputs import (
    ChildFinished,
    FuelUsed,
    Input,
    Noted,
    ProviderAnswered,
    ProviderFailed,
    RunCancelled,
    TimerFired,
    ToolFinished,
)
from rlm_wasm.scheduler.messages import Usage, cache_use_of, finish_of
from rlm_wasm.scheduler.run_state import RUN_DEADLINE

# A conversation, by the request that it answers; None: the root's.
ConversationId = RequestId | None
# What a conversation does at its end, once: the kind of its event, and whose it is.
LastAct = tuple[str, ConversationId]
_ENVELOPE: Final = ("v", "run_id", "at_ns", "depth", "parent")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a run first differs from its recording. `field` is "kind", one of the envelope, or "data.…"."""

    seq: int
    kind: str
    field: str
    expected: object
    got: object


def int_in(event: Event, name: str) -> int:
    """Return an int of the event's data."""
    value = event.data[name]
    if type(value) is not int:
        raise InternalError(f"{name} of a recorded event is no int; the reader lets none through")
    return value


def request_in(event: Event) -> RequestId:
    """Return the request that the event is about."""
    return RequestId(int_in(event, "request"))


def parent_of(event: Event) -> ConversationId:
    """Return the conversation in whose place the event stands."""
    return None if event.parent is None else RequestId(event.parent)


def owner_of(event: Event) -> ConversationId:
    """Return the conversation that brings the event about, where nothing outside does."""
    if event.kind in ("child_stopping", "child_answered", "child_gone"):
        return request_in(event)  # the child's own doing, told at its parent's place
    return parent_of(event)


def last_act(given: Input) -> LastAct | None:
    """Return what a conversation does by the input, if that is one of the last things that it does."""
    match given:
        case Noted(kind="cell_ended" | "session_ended" as kind, parent=parent):
            return kind, parent
        case FuelUsed(parent=parent):
            return "fuel_used", parent
        case ChildFinished(request_id=number):
            return "child_gone", number
    return None


def gave_up(event: Event) -> bool:
    """Say whether the run stopped waiting for a request here: for a reason that the log does not hold."""
    answered = event.kind in ("query_answered", "child_answered", "tool_answered")
    return answered and event.data["status"] == "cancelled"


def cause_of(event: Event, *, stopped: bool) -> Input | None:
    """Return the input from outside of which the event is the first consequence, if it is one.

    What a conversation that was `stopped` still did is chance, and comes from outside too.
    """
    data, run_id = event.data, event.run_id
    match event.kind:
        case "query_retry":
            return _failure(event, int_in(event, "attempt"), retryable=True)
        case "query_rerouted":
            return _failure(event, int_in(event, "attempt"), retryable=False)
        case "query_requeued":
            return TimerFired(run_id, f"query_backoff:{request_in(event)}")
        case "query_lengthened":
            return _answer(event, int_in(event, "attempt"))
        case "query_answered":
            return _cause_of_answer(event)
        case "tool_answered" if data["status"] == "timed_out":
            return TimerFired(run_id, f"tool_deadline:{request_in(event)}")
        case "tool_answered":
            return _tool_finished(event)
        case "late_result" if data["answered"]:
            return _answer(event, int_in(event, "attempt"))
        case "late_result":
            return _failure(event, int_in(event, "attempt"), retryable=False)
        case "run_stopping" if data["cause"] == "deadline":
            return TimerFired(run_id, RUN_DEADLINE)
        case "run_stopping" if data["cause"] == "cancelled":
            return RunCancelled(run_id, StopReason.cancelled(str(data["reason"])))
        case "child_answered" if data["status"] == "timed_out":
            return TimerFired(run_id, f"child_deadline:{request_in(event)}")
        case "child_gone":
            return _finished(event)
        case "run_resumed":
            return Noted(run_id, event.kind, dict(data))
        case "cell_ended" | "session_ended" if stopped:
            return Noted(run_id, event.kind, dict(data), event.depth, parent_of(event))
        case "fuel_used" if stopped:
            return FuelUsed(run_id, int_in(event, "fuel"), parent_of(event))
    return None


def _cause_of_answer(event: Event) -> Input | None:
    data, run_id, number = event.data, event.run_id, request_in(event)
    match data.get("longer") or data["status"]:
        case "completed":
            return _answer(event, int_in(event, "attempts"))
        case "failed":
            return _failure(event, int_in(event, "attempts"), retryable=False)
        case "timed_out":
            return TimerFired(run_id, f"query_deadline:{number}")
        case "denied":
            # The budget refused the attempt after the backoff.
            return TimerFired(run_id, f"query_backoff:{number}")
    return None


def _answer(event: Event, attempt: int) -> ProviderAnswered:
    data = event.data
    text, finish = str(data.get("text", "")), finish_of(data.get("finish"))
    cache = cache_use_of(data.get("cache"))
    return ProviderAnswered(event.run_id, request_in(event), attempt, text, _usage(event), finish, cache)


def _failure(event: Event, attempt: int, *, retryable: bool) -> ProviderFailed:
    data = event.data
    after = data.get("retry_after_ms")
    return ProviderFailed(
        event.run_id,
        request_in(event),
        attempt,
        provider_error(event),
        retryable=retryable,
        sent=data["sent"] is True,
        retry_after_ms=after if isinstance(after, int) else None,
        throttled=data.get("throttled") is True,
        usage=_usage(event),
    )


def _tool_finished(event: Event) -> ToolFinished:
    data, number, status = event.data, request_in(event), event.data["status"]
    if status == "completed":
        return ToolFinished(event.run_id, number, str(data.get("text", "")))
    error = _tool_error(data)
    return ToolFinished(event.run_id, number, error=error, called=status == "failed")


def _tool_error(data: Mapping[str, object]) -> QueryError:
    kind, message = data.get("error"), str(data.get("message", ""))
    key, size, limit = data.get("key"), data.get("size"), data.get("limit")
    if isinstance(key, str) and isinstance(size, int) and isinstance(limit, int):
        what = message.removesuffix(f"; {key} allows {limit}")
        return LimitExceeded(what, key=key, size=size, limit=limit)
    for each in (ToolArgumentError, ToolTimeout):
        if kind == each.__name__:
            return each(message)
    return ToolError(message)


def _finished(event: Event) -> ChildFinished:
    data, number = event.data, request_in(event)
    if data["status"] == "completed":
        return ChildFinished(event.run_id, number, str(data.get("text", "")))
    return ChildFinished(event.run_id, number, None, ChildFailed(str(data.get("message", ""))))


def _usage(event: Event) -> Usage | None:
    (given, given_estimated), (made, made_estimated) = (
        _tokens(event, which) for which in ("input", "output")
    )
    if given is None or made is None:
        return None
    return Usage(given, made, given_estimated, made_estimated)


def _tokens(event: Event, which: str) -> tuple[int | None, bool]:
    """Return a number of tokens, and whether it was estimated; logs of before have no estimates."""
    for kind in ("reported", "estimated"):
        if isinstance(tokens := event.data.get(f"{kind}_{which}_tokens"), int):
            return tokens, kind == "estimated"
    return None, False


def difference_between(
    recorded: Event, event: Event, unstated: Mapping[str, frozenset[str]]
) -> Difference | None:
    """Return where an event differs from the recorded one, or None.

    `unstated` names fields of a kind's data that are not compared.
    """

    def difference(field: str, expected: object, got: object) -> Difference:
        return Difference(recorded.seq, recorded.kind, field, expected, got)

    if recorded.seq != event.seq:
        raise InternalError(f"event {event.seq} came where {recorded.seq} is due")
    if recorded.kind != event.kind:
        return difference("kind", recorded.kind, event.kind)
    passed_over = unstated.get(event.kind, frozenset())
    # In the order of the names: what differs first must not depend on a dict's order.
    for name in sorted({*recorded.data, *event.data} - passed_over):
        expected, got = recorded.data.get(name), event.data.get(name)
        if expected != got or type(expected) is not type(got):
            return difference(*_item(f"data.{name}", expected, got))
    for name in _ENVELOPE:
        expected, got = getattr(recorded, name), getattr(event, name)
        if expected != got:
            return difference(name, expected, got)
    if not passed_over and list(recorded.data) != list(event.data):
        return difference("data", list(recorded.data), list(event.data))
    return None


def _item(field: str, expected: object, got: object) -> tuple[str, object, object]:
    """Go into two lists, to the first item that differs."""
    if isinstance(expected, list) and isinstance(got, list):
        for place, (one, other) in enumerate(zip(expected, got, strict=False)):
            if one != other:
                return f"{field}[{place}]", one, other
    return field, expected, got
