"""The one place where ledger, permits and requests change: pure decisions for every run of a process.

`handle(input, now_ns)` returns the effects to perform, in order. Same inputs and times, same
effects, same events. Nothing here waits, reads a clock or fails because of what a guest or a
provider did: an InternalError means that the host broke the protocol.

A run stops in two steps. When it must end (deadline, overdraft, cancellation, no turn left) its
requests get their terminal response at once, new ones are refused, and EndRun asks the runtime to
stop guest and loop. When that is done, RunEnded closes the account and removes the state; it may
also come unasked, and then ends open requests itself. In between, late bills still correct the
account. After it they are ignored: `run_ended` has counted them at their full reservation, which is
their upper bound.
"""

from __future__ import annotations

from typing import assert_never

from rlm_wasm.core import run_events
from rlm_wasm.core.effects import (
    CancelQuery,
    ClearTimer,
    Effect,
    EmitEvent,
    EndRun,
    Respond,
    SendQuery,
    SetTimer,
)
from rlm_wasm.core.inputs import (
    FuelUsed,
    Input,
    InputInRun,
    IterationStarted,
    Noted,
    Origin,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RunCancelled,
    RunEnded,
    RunStarted,
    TimerFired,
)
from rlm_wasm.core.ledger import Charge, Dimension, DimensionView
from rlm_wasm.core.outbox import Outbox
from rlm_wasm.core.permits import Permits
from rlm_wasm.core.query_flow import QueryFlow
from rlm_wasm.core.request import Cancelled
from rlm_wasm.core.run_state import RUN_DEADLINE, RunState
from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.ids import RunId

__all__ = [
    "CancelQuery",
    "ClearTimer",
    "Effect",
    "EmitEvent",
    "EndRun",
    "FuelUsed",
    "Input",
    "IterationStarted",
    "Noted",
    "Origin",
    "ProviderAnswered",
    "ProviderFailed",
    "QueryReceived",
    "Respond",
    "RunCancelled",
    "RunEnded",
    "RunStarted",
    "Scheduler",
    "SendQuery",
    "SetTimer",
    "TimerFired",
]


class Scheduler:
    """Decides what happens next, for every run of the process. `permits_max` bounds them together."""

    def __init__(self, permits_max: int) -> None:
        self._permits = Permits(permits_max)
        self._outbox = Outbox()
        self._queries = QueryFlow(self._permits, self._outbox)
        self._runs: dict[RunId, RunState] = {}

    @property
    def open_runs(self) -> tuple[RunId, ...]:
        """The runs that have started and not ended."""
        return tuple(self._runs)

    @property
    def permits_held(self) -> int:
        """How many queries are in flight, over all runs."""
        return self._permits.held

    def budget_view(self, run_id: RunId) -> dict[Dimension, DimensionView]:
        """Return the account of an open run; for one that is not open, InternalError."""
        run = self._runs.get(run_id)
        if run is None:
            raise InternalError(f"{run_id} is not an open run")
        return run.ledger.snapshot()

    def handle(self, given: Input, now_ns: int) -> list[Effect]:
        """Take one input and return what to do now; inputs of runs that are gone do nothing."""
        self._outbox.tick(now_ns)
        if isinstance(given, RunStarted):
            self._run_started(given)
        elif (run := self._runs.get(given.run_id)) is not None:
            self._handle_in_run(run, given)
        elif isinstance(given, QueryReceived):
            # The guest outlived its run by a moment. It is still owed an answer.
            gone = Cancelled("the run is over")
            self._outbox.add(Respond(given.run_id, given.request_id, gone))
        # Last, so that a permit given back by a run that stops never goes to a request of that run.
        for run_id, request_id in self._permits.hand_out():
            granted = self._runs[run_id]
            self._queries.dispatch(granted, granted.requests[request_id])
        return self._outbox.drain()

    def _handle_in_run(self, run: RunState, given: InputInRun) -> None:
        match given:
            case QueryReceived():
                self._queries.received(run, given)
            case ProviderAnswered():
                self._queries.answered(run, given)
                self._stop_if_overdrawn(run)
            case ProviderFailed():
                self._queries.failed(run, given)
            case TimerFired(timer_id=timer_id):
                self._timer_fired(run, timer_id)
            case IterationStarted():
                self._iteration_started(run)
            case FuelUsed(fuel=fuel):
                self._fuel_used(run, fuel)
            case Noted(kind=kind, data=data):
                self._outbox.record(run, kind, data, given)
            case RunCancelled(reason=reason):
                self._stop(run, "cancelled", reason)
            case RunEnded(outcome=outcome):
                self._run_ended(run, outcome)
            case _:
                assert_never(given)

    def _run_started(self, given: RunStarted) -> None:
        if given.run_id in self._runs:
            raise InternalError(f"{given.run_id} has started already")
        self._permits.add_run(
            given.run_id,
            permits_max=given.run.permits_max,
            # Every waiting request has been counted in this dimension.
            waiting_max=given.budget.requests_max,
        )
        run = RunState.begin(given, self._outbox.now_ns)
        self._runs[given.run_id] = run
        self._outbox.record(run, "run_started", run_events.run_started(run))
        self._outbox.set_timer(run, RUN_DEADLINE, None, self._outbox.after_ms(given.run.wall_ms_max))

    def _iteration_started(self, run: RunState) -> None:
        if run.stopping is not None:
            return
        try:
            # A turn whose code cannot run is not worth its tokens.
            run.ledger.refuse_unless_fits(Charge(iterations=1, fuel=1))
        except BudgetExceeded as exc:
            self._stop(run, "budget", f"budget: {exc.dimension}")
            return
        run.ledger.spend(Charge(iterations=1))
        data: dict[str, object] = {"iteration": run.ledger.spent(Dimension.ITERATIONS)}
        self._outbox.record(run, "iteration_started", data)

    def _fuel_used(self, run: RunState, fuel: int) -> None:
        run.ledger.absorb(Charge(fuel=fuel))
        total = run.ledger.spent(Dimension.FUEL)
        self._outbox.record(run, "fuel_used", {"fuel": fuel, "total": total})
        self._stop_if_overdrawn(run)

    def _timer_fired(self, run: RunState, timer_id: str) -> None:
        if timer_id not in run.timers:
            return  # cleared while it was on its way
        request_id = run.timers.pop(timer_id)
        if request_id is None:
            self._stop(run, "deadline", f"deadline: {run.facts.run.wall_ms_max} ms")
        else:
            self._queries.timer_fired(run, run.requests[request_id], timer_id)

    def _stop_if_overdrawn(self, run: RunState) -> None:
        if run.ledger.overdrawn and run.stopping is None:
            self._outbox.record(run, "overdraft", run_events.overdraft(run))
            self._stop(run, "overdraft", "overdraft: " + ", ".join(run.ledger.overdrawn))

    def _stop(self, run: RunState, cause: str, reason: str) -> None:
        """End the run's requests and ask for its end, once; late bills may still come until then."""
        if run.stopping is not None:
            return
        run.stopping = reason
        self._outbox.record(run, "run_stopping", {"cause": cause, "reason": reason})
        self._queries.cancel_all(run, reason)
        self._outbox.clear_timer(run, RUN_DEADLINE)
        self._outbox.add(EndRun(run.run_id, reason))

    def _run_ended(self, run: RunState, outcome: str) -> None:
        self._queries.cancel_all(run, run.stopping or outcome)
        self._outbox.clear_timer(run, RUN_DEADLINE)
        if run.requests or run.timers or run.ledger.open_reservations:
            raise InternalError(f"{run.run_id} ended with requests, timers or reservations open")
        self._permits.remove_run(run.run_id)
        self._outbox.record_end(run, run_events.run_ended(run, outcome))
        del self._runs[run.run_id]
