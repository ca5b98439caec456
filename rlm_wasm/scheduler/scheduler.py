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

from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.scheduler import run_events
from rlm_wasm.scheduler.batch import refuse_surplus, take_batch
from rlm_wasm.scheduler.child_flow import ChildFlow
from rlm_wasm.scheduler.conversation import Branch
from rlm_wasm.scheduler.effect_buffer import Outbox
from rlm_wasm.scheduler.effects import (
    CancelQuery,
    ClearTimer,
    Effect,
    EmitEvent,
    EndRun,
    GiveFuel,
    RefuseSurplus,
    Respond,
    SendQuery,
    SetTimer,
    StartChild,
    StopChild,
)
from rlm_wasm.scheduler.fuel_flow import FuelFlow
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    CellStarted,
    ChildFinished,
    ChildRequested,
    FuelUsed,
    FuelWanted,
    Input,
    InputInRun,
    IterationStarted,
    Noted,
    ObservationMade,
    Origin,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RequestAbandoned,
    RunCancelled,
    RunEnded,
    RunStarted,
    Surplus,
    TimerFired,
)
from rlm_wasm.scheduler.ledger import Charge, Dimension, DimensionView
from rlm_wasm.scheduler.permits import Permits
from rlm_wasm.scheduler.query_flow import QueryFlow
from rlm_wasm.scheduler.request import Cancelled
from rlm_wasm.scheduler.run_state import NS_PER_MS, RUN_DEADLINE, RunState

__all__ = [
    "BatchReceived",
    "CancelQuery",
    "CellStarted",
    "ChildFinished",
    "ChildRequested",
    "ClearTimer",
    "Effect",
    "EmitEvent",
    "EndRun",
    "FuelUsed",
    "FuelWanted",
    "GiveFuel",
    "Input",
    "IterationStarted",
    "Noted",
    "ObservationMade",
    "Origin",
    "ProviderAnswered",
    "ProviderFailed",
    "QueryReceived",
    "RefuseSurplus",
    "RequestAbandoned",
    "Respond",
    "RunCancelled",
    "RunEnded",
    "RunStarted",
    "Scheduler",
    "SendQuery",
    "SetTimer",
    "StartChild",
    "StopChild",
    "Surplus",
    "TimerFired",
]


class Scheduler:
    """Decides what happens next, for every run of the process. `permits` bounds them together."""

    def __init__(self, permits: PermitLimits) -> None:
        self._permits = Permits(permits)
        self._outbox = Outbox()
        self._queries = QueryFlow(self._permits, self._outbox)
        self._fuel = FuelFlow(self._outbox)
        self._children = ChildFlow(self._queries, self._fuel, self._outbox)
        self._runs: dict[RunId, RunState] = {}

    @property
    def open_runs(self) -> tuple[RunId, ...]:
        """The runs that have started and not ended."""
        return tuple(self._runs)

    @property
    def permits_held(self) -> int:
        """How many queries are in flight, over all runs."""
        return self._permits.held

    def budget_view(self, run_id: RunId, parent: RequestId | None = None) -> dict[Dimension, DimensionView]:
        """Return the account of an open run as a conversation sees it; InternalError if it is not open."""
        run, branch = self._open_branch(run_id, parent)
        return run.ledger.snapshot(branch.view)

    def room(self, run_id: RunId, parent: RequestId | None, count: int) -> int:
        """Return how many of so many requests that come together are worth giving one by one.

        All others are the surplus of their batch.
        """
        run = self._runs.get(run_id)
        branch = run.branch(parent) if run else None
        if run is None or branch is None or run.stopping is not None or branch.stopping is not None:
            return 0
        return run.room(branch, count)

    def standing(self, run_id: RunId, parent: RequestId | None, now_ns: int) -> dict[str, DimensionView]:
        """Return all that bounds a conversation: its account, and depth, time, sessions, its cell."""
        run, branch = self._open_branch(run_id, parent)
        limits = run.facts.run
        ms_max = branch.timeout_ms if branch.asked else limits.wall_ms_max
        ms_left = max(0, (branch.deadline_ns - max(now_ns, self._outbox.now_ns)) // NS_PER_MS)
        return {
            **{dimension.value: line for dimension, line in run.ledger.snapshot(branch.view).items()},
            "depth": _line(limits.depth_max, branch.depth),
            "sessions": _line(limits.sessions_max, 1 + len(run.children)),
            "run_ms": _line(ms_max, ms_max - ms_left),
            "cell_requests": _line(run.facts.cell_requests_max, branch.cell_requests),
            "cell_children": _line(limits.fanout_max, branch.cell_children),
        }

    def _open_branch(self, run_id: RunId, parent: RequestId | None) -> tuple[RunState, Branch]:
        run = self._runs.get(run_id)
        branch = run.branch(parent) if run else None
        if run is None or branch is None:
            raise InternalError(f"{run_id} is not an open run, or request {parent} not one of its children")
        return run, branch

    def handle(self, given: Input, now_ns: int) -> list[Effect]:
        """Take one input and return what to do now; inputs of runs that are gone do nothing."""
        self._outbox.tick(now_ns)
        if isinstance(given, RunStarted):
            self._run_started(given)
        elif (run := self._runs.get(given.run_id)) is not None:
            self._handle_in_run(run, given)
        else:
            self._outlived(given)
        # Last, so that a permit given back by a run that stops never goes to a request of that run.
        for run_id, request_id in self._permits.hand_out(self._outbox.now_ns):
            granted = self._runs[run_id]
            self._queries.dispatch(granted, granted.requests[request_id])
        return self._outbox.drain()

    def _handle_in_run(self, run: RunState, given: InputInRun) -> None:
        match given:
            case QueryReceived():
                self._queries.received(run, given)
            case ProviderAnswered():
                request = run.requests.get(given.request_id)
                self._queries.answered(run, given)
                if request is not None:
                    self._stop_if_overdrawn(run, request.branch)
            case BatchReceived(items=items, surplus=surplus):
                take_batch(self._queries, run, [i for i in items if isinstance(i, QueryReceived)])
                take_batch(self._children, run, [i for i in items if isinstance(i, ChildRequested)])
                if surplus is not None:
                    refuse_surplus(self._outbox, run, surplus)
            case ProviderFailed():
                self._queries.failed(run, given)
            case ChildRequested():
                self._children.received(run, given)
            case ChildFinished():
                self._children.finished(run, given)
            case RequestAbandoned(request_id=request_id):
                self._abandoned(run, request_id)
            case TimerFired(timer_id=timer_id):
                self._timer_fired(run, timer_id)
            case IterationStarted(parent=parent):
                self._iteration_started(run, parent)
            case CellStarted():
                self._cell_started(run, given)
            case FuelWanted(parent=parent):
                if (branch := run.branch(parent)) is not None:
                    self._fuel.wanted(run, branch)
            case FuelUsed(fuel=fuel, parent=parent):
                branch = run.branch(parent) or run.root
                self._fuel.used(run, branch, fuel)
                self._stop_if_overdrawn(run, branch)
            case ObservationMade(bytes=size, parent=parent):
                self._observation_made(run, size, parent)
            case Noted(kind=kind, data=data, depth=depth, parent=parent):
                self._outbox.record(run, kind, data, depth, parent)
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
            tenant=given.tenant,
            weight=given.weight,
            permits_max=given.run.permits_max,
            # Every waiting request has been counted in this dimension.
            waiting_max=given.budget.requests_max,
        )
        run = RunState.begin(given, self._outbox.now_ns)
        self._runs[given.run_id] = run
        self._outbox.record(run, "run_started", run_events.run_started(run))
        self._outbox.set_timer(run, RUN_DEADLINE, None, self._outbox.after_ms(given.run.wall_ms_max))

    def _outlived(self, given: InputInRun) -> None:
        """Answer a guest that outlived its run by a moment: it is still owed that."""
        gone = Cancelled("the run is over")
        items = given.items if isinstance(given, BatchReceived) else (given,)
        for item in items:
            if isinstance(item, QueryReceived | ChildRequested):
                self._outbox.add(Respond(item.run_id, item.request_id, gone))
        if isinstance(given, BatchReceived) and (surplus := given.surplus) is not None:
            self._outbox.add(RefuseSurplus(given.run_id, surplus.first, ((gone, surplus.requests),)))

    def _abandoned(self, run: RunState, request_id: RequestId) -> None:
        reason = "nobody waits for it any more"
        if (request := run.requests.get(request_id)) is not None:
            self._queries.abandon(run, request, Cancelled(reason))
        elif (child := run.children.get(request_id)) is not None:
            self._children.abandon(run, child, Cancelled(reason), reason)

    def _iteration_started(self, run: RunState, parent: RequestId | None) -> None:
        branch = run.branch(parent)
        if branch is None or run.stopping is not None or branch.stopping is not None:
            return
        try:
            # A turn whose code cannot run is not worth its tokens.
            run.ledger.refuse_unless_fits(Charge(iterations=1, fuel=1), branch.view)
        except BudgetExceeded as exc:
            self._end_branch(run, branch, f"budget: {exc.dimension}")
            return
        run.ledger.spend(Charge(iterations=1), branch.view)
        branch.iterations += 1
        data: dict[str, object] = {"iteration": branch.iterations}
        self._outbox.record(run, "iteration_started", data, branch.depth, parent)

    def _cell_started(self, run: RunState, given: CellStarted) -> None:
        branch = run.branch(given.parent)
        if branch is not None and not self._fuel.cell_started(run, branch, given):
            self._end_branch(run, branch, f"budget: {Dimension.FUEL}")

    def _observation_made(self, run: RunState, size: int, parent: RequestId | None) -> None:
        branch = run.branch(parent)
        if branch is None or run.stopping is not None or branch.stopping is not None:
            return
        try:
            run.ledger.spend(Charge(observation_bytes=size), branch.view)
        except BudgetExceeded as exc:
            self._end_branch(run, branch, f"budget: {exc.dimension}")

    def _timer_fired(self, run: RunState, timer_id: str) -> None:
        if timer_id not in run.timers:
            return  # cleared while it was on its way
        request_id = run.timers.pop(timer_id)
        if request_id is None:
            self._stop(run, "deadline", f"deadline: {run.facts.run.wall_ms_max} ms")
        elif (request := run.requests.get(request_id)) is not None:
            self._queries.timer_fired(run, request, timer_id)
        else:
            self._children.timer_fired(run, run.children[request_id])

    def _stop_if_overdrawn(self, run: RunState, branch: Branch) -> None:
        """End what has used more than it may: the run, or the child whose cap it is."""
        if run.ledger.overdrawn and run.stopping is None:
            self._outbox.record(run, "overdraft", run_events.overdraft(run.ledger.root))
            self._stop(run, "overdraft", "overdraft: " + ", ".join(run.ledger.overdrawn))
        while branch.parent is not None:
            if branch.view.overdrawn and branch.stopping is None:
                data = run_events.overdraft(branch.view)
                self._outbox.record(run, "overdraft", data, branch.depth, branch.request_id)
                self._children.end(run, branch, "overdraft: " + ", ".join(branch.view.overdrawn))
            branch = branch.parent

    def _end_branch(self, run: RunState, branch: Branch, reason: str) -> None:
        """End a conversation that may not go on: with the root's ends the run, else that child alone."""
        if branch.parent is None:
            self._stop(run, "budget", reason)
        else:
            self._children.end(run, branch, reason)

    def _stop(self, run: RunState, cause: str, reason: str) -> None:
        """End the run's requests and ask for its end, once; late bills may still come until then."""
        if run.stopping is not None:
            return
        run.stopping = reason
        self._outbox.record(run, "run_stopping", {"cause": cause, "reason": reason})
        self._children.end_below(run, run.root, reason)
        self._outbox.clear_timer(run, RUN_DEADLINE)
        self._outbox.add(EndRun(run.run_id, reason))

    def _run_ended(self, run: RunState, outcome: str) -> None:
        self._children.end_below(run, run.root, run.stopping or outcome)
        for branch in (*run.children.values(), run.root):
            self._fuel.close(run, branch)
        self._outbox.clear_timer(run, RUN_DEADLINE)
        if run.requests or run.timers or run.ledger.open_reservations:
            raise InternalError(f"{run.run_id} ended with requests, timers or reservations open")
        self._permits.remove_run(run.run_id)
        self._outbox.record_end(run, run_events.run_ended(run, outcome))
        del self._runs[run.run_id]


def _line(limit: int, spent: int) -> DimensionView:
    return DimensionView(limit, spent, 0, max(0, limit - spent))
