"""The way of a tool's call from its request to its one terminal response.

After every method an open call has a reservation of its price and a deadline timer, so that it cannot be
stuck. It holds no permit: those are for providers. What it costs is known before, so it is charged once it is
called, whatever comes of that.
"""

from __future__ import annotations

from rlm_wasm.errors import BudgetExceeded, QueryError, ToolError, ToolTimeout
from rlm_wasm.scheduler import run_events
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import CallTool, CancelTool, Respond
from rlm_wasm.scheduler.inputs import ToolCalled, ToolFinished
from rlm_wasm.scheduler.ledger import Charge
from rlm_wasm.scheduler.query_flow import conversation_of, refuse
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, Response
from rlm_wasm.scheduler.run_state import OpenCall, RunState

TIMED_OUT = "timed_out"


class ToolFlow:
    """Admits calls, answers for them, and gives up those that nobody waits for."""

    def __init__(self, buffer: EffectBuffer) -> None:
        self._buffer = buffer

    def received(self, run: RunState, given: ToolCalled) -> None:
        """Accept a call and have it made, or refuse it."""
        try:
            call = self.accept(run, conversation_of(run, given), given)
        except QueryError as exc:
            self.refuse(run, given, exc)
        else:
            self.open(run, call)

    def refuse(self, run: RunState, given: ToolCalled, error: QueryError) -> None:
        """Answer a call that was not accepted."""
        refuse(self._buffer, run, given, error)

    def accept(self, run: RunState, conversation: ConversationState, given: ToolCalled) -> OpenCall:
        """Return the call with its price reserved, or raise the QueryError that refuses it."""
        run.count_request(conversation, of_guest=True)
        terms = run.facts.tools.get(given.tool)
        if terms is None:
            names = ", ".join(sorted(run.facts.tools)) or "none"
            raise ToolError(f"this run has no tool of that name; there are: {names}")
        most = terms.calls_max
        if most is not None and run.tool_calls[given.tool] >= most:
            raise BudgetExceeded(f"tools.caps.{given.tool}.calls", requested=1, available=0, limit=most)
        charge = Charge(cost_microdollars=terms.cost_microdollars)
        reservation = run.ledger.reserve(charge, conversation.view)
        run.tool_calls[given.tool] += 1
        timeout_ms = min(terms.timeout_ms, run.wait_ms_max())
        return OpenCall(given, conversation, charge, timeout_ms, reservation)

    def give_back(self, run: RunState, call: OpenCall) -> None:
        """Undo `accept`: the batch it came with was refused."""
        run.ledger.release(call.reservation)
        run.tool_calls[call.given.tool] -= 1

    def open(self, run: RunState, call: OpenCall) -> None:
        """Have an accepted call made."""
        given = call.given
        run.calls[given.request_id] = call
        call.conversation.open[given.request_id] = None
        self._buffer.record(run, "tool_called", run_events.tool_called(run, call), given.depth, given.parent)
        at_ns = self._buffer.after_ms(call.timeout_ms)
        self._buffer.set_timer(run, call.deadline_timer, given.request_id, at_ns)
        self._buffer.add(
            CallTool(run.run_id, given.request_id, given.tool, given.arguments, given.answer_bytes_max)
        )

    def finished(self, run: RunState, given: ToolFinished) -> None:
        """Answer for a call that came back; one that was answered before counts no more."""
        call = run.calls.get(given.request_id)
        if call is None:
            return
        if given.error is None:
            self._answer(run, call, Completed(given.text, None))
        elif given.called:
            self._answer(run, call, Failed(given.error))
        else:
            self._answer(run, call, Denied(given.error))

    def timer_fired(self, run: RunState, call: OpenCall) -> None:
        """Give a call up at its deadline."""
        late = ToolTimeout(f"the tool {call.given.tool} did not come back within {call.timeout_ms} ms")
        self._give_up(run, call, Failed(late), TIMED_OUT)

    def abandon(self, run: RunState, call: OpenCall, response: Cancelled) -> None:
        """Answer for a call from outside: nobody waits for it any more."""
        self._give_up(run, call, response, response.status)

    def _give_up(self, run: RunState, call: OpenCall, response: Response, status: str) -> None:
        self._buffer.add(CancelTool(run.run_id, call.given.request_id))
        self._answer(run, call, response, status)

    def _answer(self, run: RunState, call: OpenCall, response: Response, status: str = "") -> None:
        given, denied = call.given, isinstance(response, Denied)
        del run.calls[given.request_id]
        del call.conversation.open[given.request_id]
        self._buffer.clear_timer(run, call.deadline_timer)
        if denied:  # it was not made
            run.ledger.release(call.reservation)
            run.tool_calls[given.tool] -= 1
        else:
            run.ledger.settle(call.reservation, call.charge)
        cost = 0 if denied else call.charge.cost_microdollars
        data = run_events.tool_answered(run, call, response, status or response.status, cost)
        self._buffer.record(run, "tool_answered", data, given.depth, given.parent)
        self._buffer.add(Respond(run.run_id, given.request_id, response))
