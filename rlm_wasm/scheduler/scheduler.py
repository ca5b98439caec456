"""The one place where ledger, permits and requests change: pure decisions for every run of a process.

`handle(input, now_ns)` returns the effects to perform, in order. Same inputs and times, same
effects, same events. Nothing here waits, reads a clock or fails because of what a guest or a
provider did: an InternalError means that the host broke the protocol.

A run stops in two steps. When it must end (deadline, overdraft, cancellation, a hook, no turn left) its
requests get their terminal response at once, new ones are refused, and EndRun asks the runtime to
stop guest and loop. Of a run that a budget ended, the root's model may be asked once more then, with what
was kept for that. When that is done, RunEnded closes the account and removes the state; it may
also come unasked, and then ends open requests itself. In between, late bills still correct the
account. After it they are ignored: `run_ended` has counted them at their full reservation, which is
their upper bound.
"""

from __future__ import annotations

from typing import assert_never

from rlm_wasm.errors import BudgetExceeded, InternalError, QueryError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler import run_events
from rlm_wasm.scheduler.batch import refuse_surplus, take_batch
from rlm_wasm.scheduler.child_flow import ChildFlow
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import (
    CallTool,
    CancelQuery,
    CancelTool,
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
    CellJudged,
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
    ToolCalled,
    ToolFinished,
    ToolTerms,
)
from rlm_wasm.scheduler.ledger import DIMENSIONS, Charge, Dimension, DimensionView, View
from rlm_wasm.scheduler.permits import Permits
from rlm_wasm.scheduler.query_flow import QueryFlow, Stopping, refuse
from rlm_wasm.scheduler.request import Cancelled
from rlm_wasm.scheduler.run_state import NS_PER_MS, RUN_DEADLINE, RunState
from rlm_wasm.scheduler.tool_flow import ToolFlow

__all__ = [
    "BatchReceived",
    "CallTool",
    "CancelQuery",
    "CancelTool",
    "CellJudged",
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
    "ToolCalled",
    "ToolFinished",
    "ToolTerms",
]


class Scheduler:
    """Decides what happens next, for every run of the process. `permits` bounds them together."""

    def __init__(self, permits: PermitLimits) -> None:
        self._permits = Permits(permits)
        self._buffer = EffectBuffer()
        self._queries = QueryFlow(self._permits, self._buffer)
        self._fuel = FuelFlow(self._buffer)
        self._tools = ToolFlow(self._buffer)
        self._children = ChildFlow(self._queries, self._tools, self._fuel, self._buffer)
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
        run, conversation = self._open_conversation(run_id, parent)
        return run.ledger.snapshot(conversation.view)

    def room(self, run_id: RunId, parent: RequestId | None, count: int) -> int:
        """Return how many of so many requests that come together are worth giving one by one.

        All others are the surplus of their batch.
        """
        run = self._runs.get(run_id)
        conversation = run.conversation(parent) if run else None
        if (
            run is None
            or conversation is None
            or run.stopping is not None
            or conversation.stopping is not None
        ):
            return 0
        return run.room(conversation, count)

    def standing(self, run_id: RunId, parent: RequestId | None, now_ns: int) -> dict[str, DimensionView]:
        """Return all that bounds a conversation: its account, and depth, time, sessions, its cell."""
        run, conversation = self._open_conversation(run_id, parent)
        limits = run.facts.run
        ms_max = conversation.timeout_ms if conversation.asked else limits.wall_ms_max
        ms_left = max(0, (conversation.deadline_ns - max(now_ns, self._buffer.now_ns)) // NS_PER_MS)
        return {
            **{dimension.value: line for dimension, line in run.ledger.snapshot(conversation.view).items()},
            "depth": _line(limits.depth_max, conversation.depth),
            "sessions": _line(limits.sessions_max, 1 + len(run.children)),
            "run_ms": _line(ms_max, ms_max - ms_left),
            "cell_requests": _line(run.facts.cell_requests_max, conversation.cell_requests),
            "cell_children": _line(limits.fanout_max, conversation.cell_children),
        }

    def answered_by(self, run_id: RunId) -> dict[str, int]:
        """Return how many answers each model has given in an open run."""
        return dict(self._open_conversation(run_id, None)[0].answered_by)

    def cached(self, run_id: RunId) -> int:
        """Return how many answers of an open run a cache had."""
        return self._open_conversation(run_id, None)[0].cached

    def _open_conversation(
        self, run_id: RunId, parent: RequestId | None
    ) -> tuple[RunState, ConversationState]:
        run = self._runs.get(run_id)
        conversation = run.conversation(parent) if run else None
        if run is None or conversation is None:
            raise InternalError(f"{run_id} is not an open run, or request {parent} not one of its children")
        return run, conversation

    def handle(self, given: Input, now_ns: int) -> list[Effect]:
        """Take one input and return what to do now; inputs of runs that are gone do nothing."""
        self._buffer.tick(now_ns)
        if isinstance(given, RunStarted):
            self._run_started(given)
        elif (run := self._runs.get(given.run_id)) is not None:
            self._handle_in_run(run, given)
        else:
            self._outlived(given)
        # Last, so that a permit given back by a run that stops never goes to a request of that run.
        for run_id, request_id in self._permits.hand_out(self._buffer.now_ns):
            granted = self._runs[run_id]
            self._queries.dispatch(granted, granted.requests[request_id])
        return self._buffer.drain()

    def _handle_in_run(self, run: RunState, given: InputInRun) -> None:
        match given:
            case QueryReceived(origin="last"):
                self._last_received(run, given)
            case QueryReceived():
                self._queries.received(run, given)
            case ProviderAnswered():
                request = run.requests.get(given.request_id)
                self._queries.answered(run, given)
                if request is not None:
                    self._stop_if_overdrawn(run, request.conversation)
            case BatchReceived(items=items, surplus=surplus):
                take_batch(self._queries, run, [i for i in items if isinstance(i, QueryReceived)])
                take_batch(self._children, run, [i for i in items if isinstance(i, ChildRequested)])
                take_batch(self._tools, run, [i for i in items if isinstance(i, ToolCalled)])
                if surplus is not None:
                    refuse_surplus(self._buffer, run, surplus)
            case ProviderFailed():
                self._queries.failed(run, given)
            case ChildRequested():
                self._children.received(run, given)
            case ChildFinished():
                self._children.finished(run, given)
            case ToolCalled():
                self._tools.received(run, given)
            case ToolFinished():
                self._tools.finished(run, given)
            case RequestAbandoned(request_id=request_id):
                self._abandoned(run, request_id)
            case TimerFired(timer_id=timer_id):
                self._timer_fired(run, timer_id)
            case IterationStarted(parent=parent):
                self._iteration_started(run, parent)
            case CellJudged():
                self._cell_judged(run, given)
            case CellStarted():
                self._cell_started(run, given)
            case FuelWanted(parent=parent):
                if (conversation := run.conversation(parent)) is not None:
                    self._fuel.wanted(run, conversation)
            case FuelUsed(fuel=fuel, parent=parent):
                if (conversation := run.conversation(parent)) is not None:
                    self._fuel.used(run, conversation, fuel)
                else:
                    self._fuel.used_by_nobody(run, fuel)
                self._stop_if_overdrawn(run, conversation or run.root)
            case ObservationMade(bytes=size, parent=parent):
                self._observation_made(run, size, parent)
            case Noted(kind=kind, data=data, depth=depth, parent=parent):
                self._buffer.record(run, kind, data, depth, parent)
            case RunCancelled(stop=stop):
                if run.stopping is not None:  # whoever wants an end waits for no last answer
                    run.last_asked = True
                    self._children.end_below(run, run.root, stop)
                self._stop(run, stop)
            case RunEnded(stop=stop):
                self._run_ended(run, stop)
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
        run = RunState.begin(given, self._buffer.now_ns)
        self._runs[given.run_id] = run
        self._buffer.record(run, "run_started", run_events.run_started(run))
        self._buffer.set_timer(run, RUN_DEADLINE, None, self._buffer.after_ms(given.run.wall_ms_max))

    def _outlived(self, given: InputInRun) -> None:
        """Answer a guest that outlived its run by a moment: it is still owed that."""
        gone = Cancelled("the run is over")
        items = given.items if isinstance(given, BatchReceived) else (given,)
        for item in items:
            if isinstance(item, QueryReceived | ChildRequested | ToolCalled):
                self._buffer.add(Respond(item.run_id, item.request_id, gone))
        if isinstance(given, BatchReceived) and (surplus := given.surplus) is not None:
            self._buffer.add(RefuseSurplus(given.run_id, surplus.first, ((gone, surplus.requests),)))

    def _last_received(self, run: RunState, given: QueryReceived) -> None:
        """Ask for the best answer there is, once, of a run that a limit ends; what was kept is for that."""
        if given.ending is None or given.parent is not None:
            raise InternalError(f"{given.run_id}: only the root is asked last, and for a reason")
        if run.stopping is None:
            run.stopping = given.ending
            self._stopped(run, given.ending)
        if run.last_asked or not run.stopping.leaves_a_question:
            refuse(self._buffer, run, given, Stopping(str(run.stopping)))
            return
        run.last_asked = True
        run.ledger.free_kept()
        try:
            run.ledger.spend(Charge(observation_bytes=given.observed_bytes))
            request = self._queries.accept(run, run.root, given)
        except QueryError as exc:
            self._queries.refuse(run, given, exc)
        else:
            self._queries.open(run, request)

    def _abandoned(self, run: RunState, request_id: RequestId) -> None:
        stop = StopReason.abandoned()
        if (request := run.requests.get(request_id)) is not None:
            self._queries.abandon(run, request, Cancelled(str(stop)))
        elif (call := run.calls.get(request_id)) is not None:
            self._tools.abandon(run, call, Cancelled(str(stop)))
        elif (child := run.children.get(request_id)) is not None:
            self._children.abandon(run, child, Cancelled(str(stop)), stop)

    def _iteration_started(self, run: RunState, parent: RequestId | None) -> None:
        conversation = run.conversation(parent)
        if conversation is None or run.stopping is not None or conversation.stopping is not None:
            return
        try:
            # A turn whose code cannot run is not worth its tokens.
            run.ledger.refuse_unless_fits(Charge(iterations=1, fuel=1), conversation.view)
        except BudgetExceeded as exc:
            self._end_conversation(run, conversation, StopReason.budget(exc.dimension, exc.limit))
            return
        run.ledger.spend(Charge(iterations=1), conversation.view)
        conversation.iterations += 1
        data: dict[str, object] = {"iteration": conversation.iterations}
        self._buffer.record(run, "iteration_started", data, conversation.depth, parent)

    def _cell_judged(self, run: RunState, given: CellJudged) -> None:
        conversation = run.conversation(given.parent)
        if conversation is None or run.stopping is not None or conversation.stopping is not None:
            return
        data = run_events.cell_judged(run, given)
        self._buffer.record(run, "cell_judged", data, conversation.depth, given.parent)
        match given.verdict:
            case "stopped":
                self._stop(run, StopReason.hook_stopped(given.reason))
            case "failed":
                self._stop(run, StopReason.hook_failed(given.error))
            case "timed_out":
                self._stop(run, StopReason.hook_timed_out(run.facts.run.hook_ms_max))

    def _cell_started(self, run: RunState, given: CellStarted) -> None:
        conversation = run.conversation(given.parent)
        if conversation is not None and not self._fuel.cell_started(run, conversation, given):
            none_left = run.ledger.refusal(Dimension.FUEL, conversation.view)
            self._end_conversation(run, conversation, StopReason.budget(none_left.dimension, none_left.limit))

    def _observation_made(self, run: RunState, size: int, parent: RequestId | None) -> None:
        conversation = run.conversation(parent)
        if conversation is None or run.stopping is not None or conversation.stopping is not None:
            return
        try:
            run.ledger.spend(Charge(observation_bytes=size), conversation.view)
        except BudgetExceeded as exc:
            self._end_conversation(run, conversation, StopReason.budget(exc.dimension, exc.limit))

    def _timer_fired(self, run: RunState, timer_id: str) -> None:
        if timer_id not in run.timers:
            return  # cleared while it was on its way
        request_id = run.timers.pop(timer_id)
        if request_id is None:
            self._stop(run, StopReason.run_deadline(run.facts.run.wall_ms_max))
        elif (request := run.requests.get(request_id)) is not None:
            self._queries.timer_fired(run, request, timer_id)
        elif (call := run.calls.get(request_id)) is not None:
            self._tools.timer_fired(run, call)
        else:
            self._children.timer_fired(run, run.children[request_id])

    def _stop_if_overdrawn(self, run: RunState, conversation: ConversationState) -> None:
        """End what has used more than it may: the run, or the child whose cap it is."""
        if run.ledger.overdrawn and run.stopping is None:
            self._buffer.record(run, "overdraft", run_events.overdraft(run.ledger.root))
            self._stop(run, _overdraft(run.ledger.root))
        while conversation.parent is not None:
            if conversation.view.overdrawn and conversation.stopping is None:
                data = run_events.overdraft(conversation.view)
                self._buffer.record(run, "overdraft", data, conversation.depth, conversation.request_id)
                self._children.end(run, conversation, _overdraft(conversation.view))
            conversation = conversation.parent

    def _end_conversation(self, run: RunState, conversation: ConversationState, stop: StopReason) -> None:
        """End a conversation that may not go on: with the root's ends the run, else that child alone."""
        if conversation.parent is None:
            self._stop(run, stop)
        else:
            self._children.end(run, conversation, stop)

    def _stop(self, run: RunState, stop: StopReason) -> None:
        """End the run's requests and ask for its end, once; late bills may still come until then."""
        if run.stopping is not None:
            return
        run.stopping = stop
        self._stopped(run, stop)
        self._buffer.add(EndRun(run.run_id, stop))

    def _stopped(self, run: RunState, stop: StopReason) -> None:
        data: dict[str, object] = {"cause": stop.cause, "reason": stop.logged(texts=run.facts.texts)}
        self._buffer.record(run, "run_stopping", data)
        self._children.end_below(run, run.root, stop)
        self._buffer.clear_timer(run, RUN_DEADLINE)

    def _run_ended(self, run: RunState, stop: StopReason) -> None:
        self._children.end_below(run, run.root, run.stopping or stop)
        for conversation in (*run.children.values(), run.root):
            self._fuel.close(run, conversation)
        self._buffer.clear_timer(run, RUN_DEADLINE)
        if run.requests or run.calls or run.timers or run.ledger.open_reservations:
            raise InternalError(f"{run.run_id} ended with requests, timers or reservations open")
        self._permits.remove_run(run.run_id)
        self._buffer.record_end(run, run_events.run_ended(run, stop))
        del self._runs[run.run_id]


def _overdraft(view: View) -> StopReason:
    """Return why a conversation ends that used more than it may."""
    dimensions = view.overdrawn
    return StopReason.overdraft(dimensions, view.limit[DIMENSIONS.index(dimensions[0])])


def _line(limit: int, spent: int) -> DimensionView:
    return DimensionView(limit, spent, 0, max(0, limit - spent))
