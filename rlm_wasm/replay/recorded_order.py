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
from enum import Enum, auto
from typing import Final

from rlm_wasm.errors import QueryError
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId
from rlm_wasm.replay.recorded_event import (
    ConversationId,
    Difference,
    LastAct,
    cause_of,
    difference_between,
    gave_up,
    int_in,
    last_act,
    owner_of,
    parent_of,
    request_in,
)
from rlm_wasm.replay.recorded_refusals import Fold, OwedRefusals, fold_of
from rlm_wasm.scheduler.effects import Effect, EmitEvent, RefuseSurplus, Respond
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    ChildRequested,
    FuelUsed,
    Input,
    Noted,
    QueryReceived,
    ToolCalled,
)
from rlm_wasm.scheduler.query_flow import reason_of
from rlm_wasm.scheduler.request import Denied

# Told together with the next other event, which comes behind them and says what caused it all.
_TOLD_WITH_THE_NEXT: Final = ("query_denied", "provider_throttled")
# What a machine measures in an event, besides its time, and what stands around a process there.
_MEASURED: Final = {"session_ended": ("executed_ns", "worker_cpu_ns", "lockdown")}
GIVEN_UP: Final = "the recorded run gave up a request here that it waited for: by the clock, or torn down"


class Whose(Enum):
    """Whose turn it is, where it is not that of one conversation."""

    ANYBODYS = auto()  # the script is over


class _Tree:
    """Which conversations there are, and which have been stopped."""

    def __init__(self) -> None:
        self._below: dict[ConversationId, list[RequestId]] = {}
        self._stopped: set[ConversationId] = set()
        self.abandoned: set[RequestId] = set()

    def is_stopped(self, owner: ConversationId) -> bool:
        return owner in self._stopped

    def follow(self, event: Event) -> None:
        """Take the next event of the run."""
        match event.kind:
            case "child_started":
                self._below.setdefault(parent_of(event), []).append(request_in(event))
            case "run_stopping":
                self._stop(None)
            case "child_stopping":
                self._stop(request_in(event))
            case "child_answered" if event.data["status"] in ("timed_out", "cancelled"):
                number = request_in(event)
                self.abandoned.add(number)
                self._stop(number)

    def _stop(self, owner: ConversationId) -> None:
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
        self._end, self._ends_with = _end_of(events)
        self._next = 0
        self._given_at = -1
        self._accepted: set[int] = set()
        # Requests refused and not yet told of: a refusal is told with the next other event.
        self._refused: Counter[Fold] = Counter()
        # Grows with all that comes.
        self.progress = 0
        self._asking: ConversationId = None
        self._last_request = 0
        self._tree = _Tree()
        # What stopped conversations did last: told by the recording, and come of itself before that.
        self._told: set[LastAct] = set()
        self._untold: dict[LastAct, Input] = {}
        # What stopped cells used whose end the recording told.
        self._used: dict[ConversationId, int] = {}
        self.difference: Difference | None = None
        # Why the script ends before the recording does, or the recording before its run.
        self.ended: str | None = None
        # The refusals from the next event on, and the place of the first other event.
        self._owed = OwedRefusals((), {})
        self._other = 0
        self._look_ahead()

    @property
    def compared(self) -> int:
        """How many events were the same."""
        return self._next

    @property
    def came_to_its_end(self) -> bool:
        """Whether all that the recording holds of its run came again."""
        return self.difference is None and self._next >= self._end

    @property
    def over(self) -> bool:
        """Whether there is nothing more to give or to compare."""
        return self.difference is not None or self.ended is not None or self._next >= self._end

    def now_ns(self) -> int:
        """Return the time at which the next input was handled."""
        at = min(self._next, len(self._events) - 1)
        return self._events[at].at_ns

    def whose_turn(self) -> ConversationId | Whose:
        """Return whose turn it is to do something that shows."""
        if self.over:
            return Whose.ANYBODYS
        if self._owed:
            return self._owed.next_owner(self._last_request)
        return owner_of(self._events[self._other])

    def takes(self, given: Input) -> bool:
        """Take note of an input of the run itself, and say whether it may come.

        What a stopped conversation did last comes from the recording instead.
        """
        if (act := last_act(given)) is not None:
            return self._takes_last(act, given)
        match given:
            case BatchReceived(items=items, surplus=surplus):
                self._asking = surplus.parent if surplus is not None else items[0].parent
            case QueryReceived(parent=parent) | ChildRequested(parent=parent) | ToolCalled(parent=parent):
                self._asking = parent
        return True

    def _takes_last(self, act: LastAct, given: Input) -> bool:
        if act in self._told:
            return False  # however late it comes: what the recording told of it stands
        kind, owner = act
        stopped = owner in self._tree.abandoned if kind == "child_gone" else self._tree.is_stopped(owner)
        if self.over or not stopped:
            return True
        self._untold[act] = given
        return False

    def untold(self) -> list[Input]:
        """Return what stopped conversations did last that the recording, which is over, tells nothing of."""
        return [given for act, given in self._untold.items() if act not in self._told]

    def restated(self, given: Input) -> Input:
        """Return an input of the run itself with what was measured in it as the recording says it was.

        Nothing decides by it, and no machine measures the same twice. Nor does a cell that is stopped come as
        far twice: what the recording's used is charged, also where it ends before it says so.
        """
        if isinstance(given, FuelUsed) and ("fuel_used", given.parent) not in self._told:
            return given._replace(fuel=self._used.get(given.parent, given.fuel))
        if not isinstance(given, Noted) or given.kind not in _MEASURED or self.over:
            return given
        recorded = self._events[self._other]  # refusals are told before it
        if (recorded.kind, recorded.parent) != (given.kind, given.parent):
            return given
        measured = {name: recorded.data[name] for name in _MEASURED[given.kind] if name in recorded.data}
        gone = set(_MEASURED[given.kind]) - set(measured)
        # In the order in which they are given: it is that of the recorded bytes.
        data = {name: value for name, value in (given.data | measured).items() if name not in gone}
        return given._replace(data=data)

    def performed(self, effect: Effect) -> None:
        """Take note of an effect of the run: its events are compared with the recorded ones."""
        self.progress += 1
        match effect:
            case EmitEvent(event=event):
                self._emitted(event)
            case Respond(request_id=number, response=Denied(error=error)) if number not in self._accepted:
                self._was_refused(error, number, 1)
            case RefuseSurplus(first=number, refusals=refusals):
                for response, times in refusals:
                    if isinstance(response, Denied):
                        self._was_refused(response.error, number + times - 1, times)
                        number = RequestId(number + times)

    def _was_refused(self, error: QueryError, last: int, times: int) -> None:
        fold = reason_of(error), self._asking
        self._refused[fold] += times
        self._last_request = max(self._last_request, last)
        self._owed.refuse(fold, times)

    def _emitted(self, event: Event) -> None:
        if self.over:
            return
        recorded = self._events[self._next]
        self.difference = difference_between(recorded, event, self._unstated)
        if self.difference is not None:
            return
        self._next += 1
        self._tree.follow(event)
        if event.kind in ("query_received", "child_started", "tool_called"):
            number = int_in(event, "request")
            self._accepted.add(number)
            self._last_request = max(self._last_request, number)
        elif event.kind == "query_denied":
            self._refused[fold_of(event)] -= int_in(event, "count")
        if self._next == self._end:
            self.ended = self._ends_with
        elif self._next > self._other:
            self._look_ahead()

    def due(self) -> Input | None:
        """Return what comes from outside now, or None while it is the run's own turn."""
        if self.over or self._owed:
            return None
        event = self._events[self._other]
        if gave_up(event):
            self.ended = GIVEN_UP
            return None
        given = cause_of(event, stopped=self._tree.is_stopped(parent_of(event)))
        if given is not None:
            if self._given_at == self._next:
                self.stands_still()  # given, and nothing came of it: no such attempt, timer or child is open
                return None
            self._given_at = self._next
            if (act := last_act(given)) is not None:
                self._told.add(act)
            if event.kind == "cell_ended":
                self._used[parent_of(event)] = int_in(event, "fuel")
        return given

    def give_up(self, after_ms: int) -> None:
        """End where the recording is, for want of time."""
        if not self.over:
            event = self._events[self._next]
            self.ended = f"nothing came of the recording's event {event.seq} ({event.kind}) for {after_ms} ms"

    def stands_still(self) -> None:
        """End where the recording has what nothing here can bring about: to wait for it would be for ever."""
        event = self._events[self._next if self._owed else self._other]
        self.difference = Difference(event.seq, event.kind, "kind", event.kind, None)

    def _look_ahead(self) -> None:
        """Find what is told with the next other event: each event is looked at once."""
        owed: dict[Fold, Event] = {}
        self._other = self._next
        while self._other < self._end:
            event = self._events[self._other]
            if event.kind == "query_denied" and fold_of(event) not in owed:
                owed[fold_of(event)] = event
            elif event.kind != "provider_throttled":
                # Also where there is a second event of the same refusals, which no run has.
                break
            self._other += 1
        self._owed = OwedRefusals(owed.values(), self._refused)


def _end_of(events: Sequence[Event]) -> tuple[int, str | None]:
    """Return how many of a recording's events can come again, and why that is not all of a run."""
    cut = next((at for at, event in enumerate(events) if event.kind == "events_truncated"), None)
    end = len(events) if cut is None else cut
    while end and events[end - 1].kind in _TOLD_WITH_THE_NEXT:
        end -= 1
    if cut is not None:
        return end, f"the recording is cut off by run.events_max at event {events[cut].seq}"
    last = events[-1]
    if last.kind == "run_ended":
        return end, None
    why = f"the recording ends with event {last.seq}, before its run did"
    if end < len(events):
        why += f"; what came with event {events[end].seq} is missing"
    return end, why
