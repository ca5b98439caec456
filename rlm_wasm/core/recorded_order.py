"""A recorded run as a script: what came from outside, in the order and at the times it came.

The scheduler is a function of its inputs and their times. Those of providers, timers and the operator
follow from the events that they caused, so a log is enough to give them again; those of the guests and
the loops must come by themselves, each conversation in its turn, and show by their events whether they
are the same. What a conversation that was stopped still did is chance, and comes from the log too.

Every event is compared with the recorded one. At the first that differs, the script is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from rlm_wasm.core.effects import Effect, EmitEvent, Respond
from rlm_wasm.core.inputs import (
    BatchReceived,
    ChildFinished,
    ChildRequested,
    FuelUsed,
    Input,
    Noted,
    QueryReceived,
)
from rlm_wasm.core.query_flow import reason_of
from rlm_wasm.core.recorded_event import (
    Difference,
    Owner,
    cause_of,
    difference_between,
    gave_up,
    int_in,
    owner_of,
    parent_of,
    request_in,
)
from rlm_wasm.core.request import Denied
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId

# Why requests were refused, and who asked: what one event of refusals is about.
_Fold = tuple[str, Owner]

# What a conversation that was stopped still does by itself.
_AFTER_A_STOP: Final = ("run_described", "run_answered", "run_ended", "child_answered")
# What a machine measures in an event, besides its time, and what stands around a process there.
_MEASURED: Final = {"session_ended": ("executed_ns", "worker_cpu_ns", "lockdown")}
GIVEN_UP: Final = "the recorded run gave up a request here that it waited for: by the clock, or torn down"


class _Tree:
    """Which conversations there are, what they wait for, and which have been stopped."""

    def __init__(self) -> None:
        self._below: dict[Owner, list[RequestId]] = {}
        # What each conversation has asked and not been answered: meanwhile it does nothing.
        self._open: dict[Owner, set[int]] = {None: set()}
        self._stopped: set[Owner] = set()
        self.abandoned: set[RequestId] = set()

    def is_stopped(self, owner: Owner) -> bool:
        return owner in self._stopped

    def can_act(self, owner: Owner, kind: str) -> bool:
        """Say whether a conversation will do anything by itself, and may bring about this kind of event."""
        if owner not in self._open or self._open[owner]:
            return False
        return owner not in self._stopped or kind in _AFTER_A_STOP

    def follow(self, event: Event) -> None:
        """Take the next event of the run."""
        match event.kind:
            case "query_received" | "child_started":
                self._open.setdefault(parent_of(event), set()).add(int_in(event, "request"))
            case "query_answered" | "child_answered":
                self._open.setdefault(parent_of(event), set()).discard(int_in(event, "request"))
        match event.kind:
            case "child_started":
                number = request_in(event)
                self._open[number] = set()
                self._below.setdefault(parent_of(event), []).append(number)
            case "child_answered" if event.data["status"] in ("completed", "failed"):
                self._open.pop(request_in(event), None)
            case "run_stopping":
                self._stop(None)
            case "child_stopping":
                self._stop(request_in(event))
            case "child_answered" if event.data["status"] in ("timed_out", "cancelled"):
                number = request_in(event)
                self.abandoned.add(number)
                self._stop(number)

    def _stop(self, owner: Owner) -> None:
        rest = [owner]
        while rest:
            owner = rest.pop()
            self._stopped.add(owner)
            rest += self._below.get(owner, [])


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
        # Requests refused and not yet told of: a refusal is told with the next other event.
        self._refused: Counter[_Fold] = Counter()
        self._asking: Owner = None
        self._last_request = 0
        self._tree = _Tree()
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

    def may_act(self, owner: Owner) -> bool:
        """Say whether it is this conversation's turn to do something that shows."""
        if self.over:
            return True
        owed, event = self._owed_refusals()
        if not self._unmet(owed):
            return event is not None and owner == owner_of(event)
        return owner == self._next_refused(owed)

    def takes(self, given: Input) -> bool:
        """Take note of an input of the run itself, and say whether it may come.

        What a stopped conversation did last comes from the recording instead.
        """
        match given:
            case Noted(kind="cell_ended" | "session_ended", parent=parent) | FuelUsed(parent=parent):
                return self.over or not self._tree.is_stopped(parent)
            case ChildFinished(request_id=number):
                return self.over or number not in self._tree.abandoned
            case BatchReceived(items=items):
                self._asking = items[0].parent
            case QueryReceived(parent=parent) | ChildRequested(parent=parent):
                self._asking = parent
        return True

    def restated(self, given: Input) -> Input:
        """Return an input of the run itself with what was measured in it as the recording says it was.

        Nothing decides by it, and no machine measures the same twice.
        """
        if not isinstance(given, Noted) or given.kind not in _MEASURED or self.over:
            return given
        recorded = self._events[self._next]
        if (recorded.kind, recorded.parent) != (given.kind, given.parent):
            return given
        measured = _MEASURED[given.kind]
        kept = {name: value for name, value in given.data.items() if name not in measured}
        return given._replace(
            data=kept | {name: recorded.data[name] for name in measured if name in recorded.data}
        )

    def performed(self, effect: Effect) -> None:
        """Take note of an effect of the run: its events are compared with the recorded ones."""
        match effect:
            case EmitEvent(event=event):
                self._emitted(event)
            case Respond(request_id=number, response=Denied(error=error)) if number not in self._accepted:
                self._refused[reason_of(error), self._asking] += 1
                self._last_request = max(self._last_request, number)

    def _emitted(self, event: Event) -> None:
        if self.over:
            return
        recorded = self._events[self._next]
        if recorded.kind == "events_truncated":
            self.ended = "the recording is cut off here by run.events_max"
            return
        self.difference = difference_between(recorded, event, self._unstated)
        if self.difference is not None:
            return
        self._next += 1
        self._tree.follow(event)
        if event.kind in ("query_received", "child_started"):
            number = int_in(event, "request")
            self._accepted.add(number)
            self._last_request = max(self._last_request, number)
        elif event.kind == "query_denied":
            self._refused[_fold(event)] -= int_in(event, "count")
        if self._next == len(self._events) and event.kind != "run_ended":
            self.ended = "the recording ends here, before its run did"

    def due(self) -> Input | None:
        """Return what comes from outside now, or None while it is the run's own turn."""
        if self.over:
            return None
        owed, event = self._owed_refusals()
        if self._unmet(owed):
            if not self._tree.can_act(self._next_refused(owed), "query_denied"):
                self._never(owed[0])
            return None
        if event is None:
            return None
        if gave_up(event):
            self.ended = GIVEN_UP
            return None
        given = cause_of(event, stopped=self._tree.is_stopped(parent_of(event)))
        if given is None and not self._tree.can_act(owner_of(event), event.kind):
            self._never(event)
        elif given is not None:
            if self._given_at == self._next:
                self._never(event)  # given, and nothing came of it: no such attempt, timer or child is open
                return None
            self._given_at = self._next
        return given

    def _never(self, event: Event) -> None:
        """End where the recording has what nothing here can bring about: to wait for it would be for ever."""
        self.difference = Difference(event.seq, event.kind, "kind", event.kind, None)

    def _unmet(self, owed: Sequence[Event]) -> list[Event]:
        return [event for event in owed if self._refused[_fold(event)] < int_in(event, "count")]

    def _next_refused(self, owed: Sequence[Event]) -> Owner:
        """Return who may be refused next, so that first and last request of each event come out right.

        Requests are numbered in the order of asking, and a batch takes a number more.
        """
        unmet = self._unmet(owed)
        missing = sum(int_in(event, "count") - self._refused[_fold(event)] for event in unmet)
        numbers = max(int_in(event, "last_request") for event in unmet) - self._last_request
        # Where there are more numbers than requests, the next one may be a batch's own.
        for number in range(self._last_request + 1, self._last_request + (3 if numbers > missing else 2)):
            for event in unmet:
                refused, count = self._refused[_fold(event)], int_in(event, "count")
                first, last = refused == 0, refused == count - 1
                if (first and event.data["first_request"] == number) or (
                    last and event.data["last_request"] == number
                ):
                    return parent_of(event)
        # Any order of the others will do in which nobody comes too late for its last.
        begun = [event for event in unmet if 0 < self._refused[_fold(event)] < int_in(event, "count") - 1]
        return parent_of(min(begun or unmet, key=lambda event: int_in(event, "last_request")))

    def _owed_refusals(self) -> tuple[list[Event], Event | None]:
        """Return what must be refused before the next other event, and that one."""
        owed: list[Event] = []
        at = self._next
        while at < len(self._events):
            event = self._events[at]
            if event.kind == "query_denied":
                owed.append(event)
            elif event.kind != "provider_throttled":  # the failure of which it is part comes behind it
                return owed, event
            at += 1
        return owed, None


def _fold(event: Event) -> _Fold:
    return str(event.data["reason"]), parent_of(event)
