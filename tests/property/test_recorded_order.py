"""A recorded run gives back every input from outside: the same events come of the run's own inputs alone.

The world plays guest, provider, clock and operator over one run and keeps what the guest and the loop
did. The replay gets those, in order, and the events; everything else must follow from the events.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.audit.catalogue import fault_of
from rlm_wasm.errors import ProviderError
from rlm_wasm.events import Event
from rlm_wasm.outcomes import StopReason
from rlm_wasm.replay.recorded_order import GIVEN_UP, RecordedOrder
from rlm_wasm.scheduler.effects import CancelQuery, ClearTimer, Effect, EmitEvent, SendQuery, SetTimer
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    CellStarted,
    FuelUsed,
    FuelWanted,
    Input,
    IterationStarted,
    Noted,
    ProviderAnswered,
    ProviderFailed,
    RunCancelled,
    RunEnded,
    RunStarted,
    TimerFired,
)
from rlm_wasm.scheduler.messages import Usage
from rlm_wasm.scheduler.scheduler import Scheduler
from tests.support.core_facts import (
    MS,
    RUN,
    budget,
    permit_limits,
    query,
    query_limits,
    run_limits,
    started,
)

OWN = (RunStarted, IterationStarted, BatchReceived, CellStarted, FuelWanted, FuelUsed, Noted, RunEnded)
usages = st.none() | st.builds(Usage, st.integers(-1, 60), st.integers(-1, 130))
steps = st.one_of(
    st.tuples(st.just("ask"), st.text(max_size=5), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.integers(0, 9), usages),
    st.tuples(
        st.just("fail"), st.integers(0, 9), st.booleans(), st.booleans(), st.sampled_from([None, 30, 900])
    ),
    st.tuples(st.just("late"), st.integers(0, 9), usages, st.booleans()),
    st.tuples(st.just("timer")),
    st.tuples(st.just("wait"), st.integers(0, 300)),
    st.tuples(st.just("burn"), st.sampled_from([1, 2, 60])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("cell")),
    st.tuples(st.just("want")),
    st.tuples(st.just("note")),
    st.tuples(st.just("cancel"), st.sampled_from(["by hand", "budget: mine", "deadline: mine"])),
)


class World:
    """Plays everything around a scheduler, and remembers the run's own inputs and every event."""

    def __init__(self, facts: RunStarted, permits_max: int) -> None:
        self.scheduler = Scheduler(permit_limits(permits_max))
        self.now_ns = 0
        self.own: list[Input] = []
        self.events: list[Event] = []
        self.flying: list[tuple[int, int]] = []
        self.late: list[tuple[int, int]] = []
        self.timers: dict[str, int] = {}
        self.asked = 0
        self.stopped = False
        self.open: set[object] = set()  # while a conversation waits, it does nothing
        self.give(facts)

    def give(self, given: Input) -> None:
        if isinstance(given, OWN):
            self.own.append(given)
        for effect in self.scheduler.handle(given, self.now_ns):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        match effect:
            case EmitEvent(event):
                assert fault_of(event) is None
                self.events.append(event)
                self.stopped = self.stopped or event.kind == "run_stopping"
                if event.kind == "query_received":
                    self.open.add(event.data["request"])
                elif event.kind == "query_answered":
                    self.open.discard(event.data["request"])
            case SendQuery(_, number, attempt):
                self.flying.append((number, attempt))
            case CancelQuery(_, number, attempt):
                self.flying.remove((number, attempt))
                self.late.append((number, attempt))
            case SetTimer(_, timer_id, at_ns):
                self.timers[timer_id] = at_ns
            case ClearTimer(_, timer_id):
                del self.timers[timer_id]

    def step(self, step: tuple) -> None:
        match step:
            case ("ask", prompt, count) if not self.open:
                numbers = range(self.asked + 1, self.asked + 1 + count)
                self.asked += count
                self.give(BatchReceived(RUN, tuple(query(number, prompt=prompt) for number in numbers)))
            case ("answer", pick, usage) if self.flying:
                number, attempt = self.flying.pop(pick % len(self.flying))
                self.give(ProviderAnswered(RUN, number, attempt, f"text {number}", usage))
            case ("fail", pick, retryable, sent, after) if self.flying:
                number, attempt = self.flying.pop(pick % len(self.flying))
                error = ProviderError(f"down {attempt}")
                self.give(ProviderFailed(RUN, number, attempt, error, retryable, sent, after))
            case ("late", pick, usage, answers) if self.late:
                number, attempt = self.late.pop(pick % len(self.late))
                if answers:
                    self.give(ProviderAnswered(RUN, number, attempt, "late", usage))
                else:
                    self.give(ProviderFailed(RUN, number, attempt, ProviderError("x"), True, usage is None))
            case ("timer",) if self.timers:
                at_ns, timer_id = min((at_ns, timer_id) for timer_id, at_ns in self.timers.items())
                self.now_ns = max(self.now_ns, at_ns)
                del self.timers[timer_id]
                self.give(TimerFired(RUN, timer_id))
            case ("wait", ms):
                self.now_ns += ms * MS
            case ("burn", fuel) if not self.open:
                self.give(FuelUsed(RUN, fuel))
            case ("cell",) if not self.open and not self.stopped:
                self.give(CellStarted(RUN, 1, 3))
            case ("want",) if not self.open and not self.stopped:
                self.give(FuelWanted(RUN))
            case ("turn",) if not self.open:
                self.give(IterationStarted(RUN))
            case ("note",) if not self.open and not self.stopped:
                self.give(Noted(RUN, "answer_declared", {"cell": 1, "answer_bytes": 3}))
            case ("cancel", reason):
                self.give(RunCancelled(RUN, StopReason.cancelled(reason)))


def facts(calls: int, attempts: int, permits: int) -> RunStarted:
    return replace(
        started(),
        budget=budget(calls_max=calls, requests_max=30, output_tokens_max=2_000, fuel_max=100),
        run=run_limits(permits_max=permits, wall_ms_max=3_000),
        query=query_limits(attempts_max=attempts),
        texts=True,
    )


def replayed(world: World, events: list[Event], permits_max: int) -> tuple[RecordedOrder, list[Event]]:
    """Give a fresh scheduler the run's own inputs whenever nothing is due from outside."""
    order, scheduler, own, out = (
        RecordedOrder(events),
        Scheduler(permit_limits(permits_max)),
        list(world.own),
        [],
    )
    while not order.over:
        due = order.due()
        if due is None:
            if order.over or not own:
                break
            due = own.pop(0)
            if not order.takes(due):
                continue
        for effect in scheduler.handle(due, order.now_ns()):
            order.performed(effect)
            if isinstance(effect, EmitEvent):
                out.append(effect.event)
    return order, out


@settings(max_examples=400, deadline=None)
@given(
    walk=st.lists(steps, max_size=60),
    calls=st.integers(1, 30),
    attempts=st.sampled_from([1, 3, 5]),
    permits=st.integers(1, 3),
)
def test_the_same_events_come_of_the_runs_own_inputs_and_its_log(
    walk: list[tuple], calls: int, attempts: int, permits: int
) -> None:
    world = World(facts(calls, attempts, permits), permits)
    for step in walk:
        world.step(step)
    torn_down = any(event.kind == "run_stopping" for event in world.events) or not (world.flying)
    if torn_down:
        while world.flying or world.timers:  # every query ends before its run does
            world.step(("answer", 0, None) if world.flying else ("timer",))
    world.give(RunEnded(RUN))
    order, out = replayed(world, world.events, permits)
    assert order.difference is None
    if order.ended is None:
        assert out == world.events
        assert order.compared == len(world.events)
    else:
        assert order.ended == GIVEN_UP
        assert out[: order.compared] == world.events[: order.compared]
        rest = [event for event in world.events[order.compared :] if event.kind != "query_denied"]
        assert rest[0].data["status"] == "cancelled"


@settings(max_examples=200, deadline=None)
@given(walk=st.lists(steps, max_size=40), where=st.integers(0, 200), data=st.data())
def test_a_log_that_was_changed_differs_where_it_was_changed_or_later_and_never_hangs(
    walk: list[tuple], where: int, data: st.DataObject
) -> None:
    world = World(facts(20, 3, 2), 2)
    for step in walk:
        world.step(step)
    world.give(RunEnded(RUN))
    events = list(world.events)
    at = where % len(events)
    name = data.draw(st.sampled_from(sorted(events[at].data)))
    value = events[at].data[name]
    if type(value) is int:
        changed: object = value + data.draw(st.integers(1, 3))
    elif isinstance(value, str):
        changed = value + "x"
    else:
        changed = None if isinstance(value, bool) else value
    events[at] = msgspec.structs.replace(events[at], data=events[at].data | {name: changed})
    order, _ = replayed(world, events, 2)
    assert order.over or order.compared <= at
    if order.difference is not None:
        assert changed != value
        assert order.difference.seq <= len(events)
