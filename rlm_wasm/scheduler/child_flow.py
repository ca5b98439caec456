"""The way of a child run from its request to its one terminal response, and what ends it before.

After every method:
- a child that owes a response has a deadline timer, so that its parent cannot wait for ever;
- a conversation that takes no more requests has none open, nor has any below it.
"""

from __future__ import annotations

from rlm_wasm.errors import BudgetExceeded, ChildFailed, DepthExceeded, QueryError
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler import run_events
from rlm_wasm.scheduler.conversation import ChildState, ChildStep, ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import Respond, StartChild, StopChild
from rlm_wasm.scheduler.fuel_flow import FuelFlow
from rlm_wasm.scheduler.inputs import ChildFinished, ChildRequested
from rlm_wasm.scheduler.ledger import Charge
from rlm_wasm.scheduler.query_flow import QueryFlow, conversation_of, refuse, unknown_model
from rlm_wasm.scheduler.request import Cancelled, Completed, Failed, Response, TimedOut
from rlm_wasm.scheduler.run_state import NS_PER_MS, RunState
from rlm_wasm.scheduler.tool_flow import ToolFlow

_CHILD = Charge(children=1)
# A child that could not take its first turn is not worth a session.
_FIRST_TURN = Charge(calls=1, iterations=1, fuel=1, children=1)


class ChildFlow:
    """Admits children, answers for them, and ends whatever stands below a conversation."""

    def __init__(self, queries: QueryFlow, tools: ToolFlow, fuel: FuelFlow, buffer: EffectBuffer) -> None:
        self._queries = queries
        self._tools = tools
        self._fuel = fuel
        self._buffer = buffer

    def received(self, run: RunState, given: ChildRequested) -> None:
        """Start a child or refuse it, now: whoever waits for a place may hold the one it waits for."""
        try:
            child = self.accept(run, conversation_of(run, given), given)
        except QueryError as exc:
            self.refuse(run, given, exc)
        else:
            self.open(run, child)

    def refuse(self, run: RunState, given: ChildRequested, error: QueryError) -> None:
        """Answer a request that was not accepted."""
        refuse(self._buffer, run, given, error)

    def accept(self, run: RunState, parent: ConversationState, given: ChildRequested) -> ConversationState:
        """Return the child with its place reserved, or raise the QueryError that refuses it."""
        run.count_request(parent, of_guest=True)
        facts, limits = run.facts, run.facts.run
        if parent.depth >= limits.depth_max:
            raise DepthExceeded(f"a child would be at depth {parent.depth + 1}, {limits.depth_max} allowed")
        if parent.cell_children >= limits.fanout_max:
            raise BudgetExceeded("run.fanout", requested=1, available=0, limit=limits.fanout_max)
        if 1 + len(run.children) >= limits.sessions_max:
            raise BudgetExceeded("run.sessions", requested=1, available=0, limit=limits.sessions_max)
        deepest = len(facts.child_models) - 1
        model = facts.child_models[min(parent.depth, deepest)] if given.model is None else given.model
        if model not in facts.prices:
            raise unknown_model(run)
        run.ledger.refuse_unless_fits(_FIRST_TURN, parent.view)
        # The share is of what its parent has left, the child itself not counted.
        view = run.ledger.view(parent.view, given.caps, limits.child_share_percent)
        run.ledger.refuse_unless_fits(Charge(calls=1, iterations=1, fuel=1), view)
        timeout_ms = min(limits.child_wall_ms_max, run.wait_ms_max())
        # Its parent's may have passed, with the timer still on its way.
        latest_ns = max(parent.deadline_ns, self._buffer.now_ns)
        deadline_ns = min(self._buffer.after_ms(timeout_ms), latest_ns)
        child = ConversationState(
            depth=parent.depth + 1,
            view=view,
            deadline_ns=deadline_ns,
            parent=parent,
            asked=given,
            model=model,
            timeout_ms=(deadline_ns - self._buffer.now_ns) // NS_PER_MS,
            reservation=run.ledger.reserve(_CHILD, parent.view),
        )
        # Here and not in `open`: the next item of a batch must see it.
        run.children[given.request_id] = child
        parent.cell_children += 1
        return child

    def give_back(self, run: RunState, child: ConversationState) -> None:
        """Undo `accept`: the batch it came with was refused."""
        given, parent = _asked(child)
        run.ledger.release(_taken(child))
        del run.children[given.request_id]
        parent.cell_children -= 1

    def open(self, run: RunState, child: ConversationState) -> None:
        """Start an accepted child."""
        given, parent = _asked(child)
        run.ledger.settle(_taken(child), None)
        child.step(ChildStep.START)
        parent.open[given.request_id] = None
        data = run_events.child_started(run, child, given)
        self._buffer.record(run, "child_started", data, given.depth, given.parent)
        self._buffer.set_timer(run, child.deadline_timer, given.request_id, child.deadline_ns)
        self._buffer.add(
            StartChild(
                given.run_id,
                given.request_id,
                child.depth,
                child.model,
                given.question,
                given.parent,
                given.answer_bytes_max,
            )
        )

    def finished(self, run: RunState, given: ChildFinished) -> None:
        """Answer for a child whose conversation is over; one that was answered before is recorded."""
        child = run.children.get(given.request_id)
        if child is None:
            return
        self.end_below(run, child, StopReason.child_over())
        self._fuel.close(run, child)
        response: Response = Completed(given.answer or "", None)
        if given.error is not None or given.answer is None:
            response = Failed(given.error or ChildFailed("it ended without an answer"))
        if child.owes_a_response:
            self._answer(run, child, ChildStep.FINISH, response)
        else:
            child.step(ChildStep.FINISH)
            asked, _ = _asked(child)
            data = run_events.child_gone(run, child, response)
            self._buffer.record(run, "child_gone", data, asked.depth, asked.parent)
        del run.children[given.request_id]

    def end(self, run: RunState, child: ConversationState, stop: StopReason) -> None:
        """Ask a child for the best it has: its part of the budget is used up."""
        if child.state is not ChildState.RUNNING:
            return
        child.step(ChildStep.END)
        given, _ = _asked(child)
        data: dict[str, object] = {"request": given.request_id, "reason": str(stop)}
        self._buffer.record(run, "child_stopping", data, given.depth, given.parent)
        self.end_below(run, child, stop)
        self._buffer.add(StopChild(run.run_id, given.request_id, stop))

    def timer_fired(self, run: RunState, child: ConversationState) -> None:
        """End a child at its deadline."""
        self.abandon(run, child, TimedOut(child.timeout_ms), StopReason.child_deadline(child.timeout_ms))

    def abandon(self, run: RunState, child: ConversationState, response: Response, stop: StopReason) -> None:
        """Answer for a child from outside and stop it, with all that stands below it."""
        if not child.owes_a_response:
            return
        told = child.state is ChildState.ENDING
        self.end_below(run, child, stop)
        given, _ = _asked(child)
        self._answer(run, child, ChildStep.ABANDON, response)
        if not told:
            self._buffer.add(StopChild(run.run_id, given.request_id, stop))

    def end_below(self, run: RunState, conversation: ConversationState, stop: StopReason) -> None:
        """Refuse what a conversation asks from now on, and end all it has open, deepest first."""
        if conversation.stopping is None:
            conversation.stopping = stop
        gone = Cancelled(stop.logged(texts=run.facts.texts))
        # Not recursive beyond the policy's depth, which is 16 at most.
        for request_id in tuple(conversation.open):
            if (request := run.requests.get(request_id)) is not None:
                self._queries.abandon(run, request, gone)
            elif (call := run.calls.get(request_id)) is not None:
                self._tools.abandon(run, call, gone)
            else:
                self.abandon(run, run.children[request_id], gone, stop)

    def _answer(self, run: RunState, child: ConversationState, step: ChildStep, response: Response) -> None:
        child.step(step)
        given, parent = _asked(child)
        del parent.open[given.request_id]
        self._buffer.clear_timer(run, child.deadline_timer)
        data = run_events.child_answered(run, child, response)
        self._buffer.record(run, "child_answered", data, given.depth, given.parent)
        self._buffer.add(Respond(run.run_id, given.request_id, response))


def _asked(child: ConversationState) -> tuple[ChildRequested, ConversationState]:
    assert child.asked is not None and child.parent is not None, "the root is nobody's child"  # noqa: PT018
    return child.asked, child.parent


def _taken(child: ConversationState) -> int:
    reservation, child.reservation = child.reservation, None
    assert reservation is not None, "a child is admitted once"
    return reservation
