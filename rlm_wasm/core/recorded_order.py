"""A recorded run as a script: what came from outside, in the order and at the times it came.

The scheduler is a function of its inputs and their times. Those of providers, timers and the operator
follow from the events that they caused, so a log is enough to give them again; those of the guest and
the loop must come by themselves, and show by their events whether they are the same.

Every event is compared with the recorded one. At the first that differs, the script is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rlm_wasm.core.effects import Effect, EmitEvent, Respond
from rlm_wasm.core.inputs import Input, ProviderAnswered, ProviderFailed, RunCancelled, TimerFired
from rlm_wasm.core.messages import Usage
from rlm_wasm.core.run_state import RUN_DEADLINE
from rlm_wasm.errors import InternalError, ProviderError
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId

_ENVELOPE: Final = ("v", "run_id", "at_ns", "depth", "parent")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a run first differs from its recording. `field` is "kind", one of the envelope, or "data.…"."""

    seq: int
    kind: str
    field: str
    expected: object
    got: object


class RecordedOrder:
    """Gives a scheduler the recorded inputs from outside, and compares the events that come of them.

    `unstated` names fields of a kind's data that are not compared.
    """

    def __init__(self, events: Sequence[Event], unstated: Mapping[str, frozenset[str]] | None = None) -> None:
        self._events: Final = events
        self._unstated: Final = unstated or {}
        self._next = 0
        self._given_at = -1
        self._accepted: set[int] = set()
        # Queries refused and not yet told of: a refusal is an event only with the next other one.
        self._refused = 0
        self.difference: Difference | None = None
        # Why the script ends before the recording does, or the recording before its run.
        self.ended: str | None = None

    @property
    def compared(self) -> int:
        """How many events were the same."""
        return self._next

    @property
    def over(self) -> bool:
        """Whether there is nothing more to give or to compare."""
        return self.difference is not None or self.ended is not None or self._next >= len(self._events)

    def now_ns(self) -> int:
        """Return the time at which the next input was handled."""
        at = min(self._next, len(self._events) - 1)
        return self._events[at].at_ns

    def performed(self, effect: Effect) -> None:
        """Take note of an effect of the run: its events are compared with the recorded ones."""
        match effect:
            case EmitEvent(event=event):
                self._emitted(event)
            case Respond(request_id=number) if number not in self._accepted:
                self._refused += 1

    def _emitted(self, event: Event) -> None:
        if self.over:
            return
        recorded = self._events[self._next]
        if recorded.kind == "events_truncated":
            self.ended = "the recording is cut off here by run.events_max"
            return
        self.difference = self._compare(recorded, event)
        if self.difference is None:
            self._next += 1
            if event.kind == "query_received":
                self._accepted.add(_int(event.data, "request"))
            elif event.kind == "query_denied":
                self._refused -= _int(event.data, "count")
            if self._next == len(self._events) and event.kind != "run_ended":
                self.ended = "the recording ends here, before its run did"

    def due(self) -> Input | None:
        """Return what comes from outside now, or None while it is the run's own turn."""
        if self.over:
            return None
        event = self._past_refusals()
        given = None if event is None else self._cause(event)
        if event is not None and given is not None:
            if self._given_at == self._next:
                # Given, and nothing came of it: no such attempt or timer is open.
                self.difference = Difference(event.seq, event.kind, "kind", event.kind, None)
                return None
            self._given_at = self._next
        return given

    def _past_refusals(self) -> Event | None:
        """Return the event whose cause comes next; None while queries must still be refused before it."""
        refused = 0
        for event in self._events[self._next :]:
            if event.kind != "query_denied":
                return event if refused <= self._refused else None
            refused += _int(event.data, "count")
        return None

    def _cause(self, event: Event) -> Input | None:
        """Return the input from outside of which `event` is the first consequence, if it is one."""
        data, run_id = event.data, event.run_id
        match event.kind:
            case "query_retry":
                return self._failure(event, _int(data, "attempt"), retryable=True)
            case "query_requeued":
                return TimerFired(run_id, f"query_backoff:{_int(data, 'request')}")
            case "query_answered":
                return self._answer(event)
            case "late_result" if data["answered"]:
                number, attempt = RequestId(_int(data, "request")), _int(data, "attempt")
                return ProviderAnswered(run_id, number, attempt, "", _usage(data))
            case "late_result":
                return self._failure(event, _int(data, "attempt"), retryable=False)
            case "run_stopping":
                if data["cause"] == "deadline":
                    return TimerFired(run_id, RUN_DEADLINE)
                if data["cause"] == "cancelled":
                    return RunCancelled(run_id, str(data["reason"]))
        return None

    def _answer(self, event: Event) -> Input | None:
        data, run_id, number = event.data, event.run_id, RequestId(_int(event.data, "request"))
        match data["status"]:
            case "completed":
                text = str(data.get("text", ""))
                return ProviderAnswered(run_id, number, _int(data, "attempts"), text, _usage(data))
            case "failed":
                return self._failure(event, _int(data, "attempts"), retryable=False)
            case "timed_out":
                return TimerFired(run_id, f"query_deadline:{number}")
            case "denied":
                # The budget refused the attempt after the backoff.
                return TimerFired(run_id, f"query_backoff:{number}")
            case "cancelled":
                self.ended = "the recorded run was torn down here"
        return None

    @staticmethod
    def _failure(event: Event, attempt: int, *, retryable: bool) -> ProviderFailed:
        data = event.data
        after = data.get("retry_after_ms")
        return ProviderFailed(
            event.run_id,
            RequestId(_int(data, "request")),
            attempt,
            ProviderError(str(data.get("message", ""))),
            retryable=retryable,
            sent=data["sent"] is True,
            retry_after_ms=after if isinstance(after, int) else None,
        )

    def _compare(self, recorded: Event, event: Event) -> Difference | None:
        def difference(field: str, expected: object, got: object) -> Difference:
            return Difference(recorded.seq, recorded.kind, field, expected, got)

        if recorded.seq != event.seq:
            raise InternalError(f"event {event.seq} came where {recorded.seq} is due")
        if recorded.kind != event.kind:
            return difference("kind", recorded.kind, event.kind)
        unstated = self._unstated.get(event.kind, frozenset())
        # In the order of the names: what differs first must not depend on a dict's order.
        for name in sorted({*recorded.data, *event.data} - unstated):
            expected, got = recorded.data.get(name), event.data.get(name)
            if expected != got or type(expected) is not type(got):
                return difference(*_item(f"data.{name}", expected, got))
        for name in _ENVELOPE:
            expected, got = getattr(recorded, name), getattr(event, name)
            if expected != got:
                return difference(name, expected, got)
        if not unstated and list(recorded.data) != list(event.data):
            return difference("data", list(recorded.data), list(event.data))
        return None


def _item(field: str, expected: object, got: object) -> tuple[str, object, object]:
    """Go into two lists, to the first item that differs."""
    if isinstance(expected, list) and isinstance(got, list):
        for place, (one, other) in enumerate(zip(expected, got, strict=False)):
            if one != other:
                return f"{field}[{place}]", one, other
    return field, expected, got


def _int(data: Mapping[str, object], name: str) -> int:
    value = data[name]
    if type(value) is not int:
        raise InternalError(f"{name} of a recorded event is no int; the reader lets none through")
    return value


def _usage(data: Mapping[str, object]) -> Usage | None:
    given, made = data["reported_input_tokens"], data["reported_output_tokens"]
    return Usage(given, made) if isinstance(given, int) and isinstance(made, int) else None
