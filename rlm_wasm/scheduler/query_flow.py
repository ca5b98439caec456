"""The way of a query from its arrival to its one terminal response.

After every method:
- an open request is QUEUED or DISPATCHED with one reservation, or in BACKOFF with none;
- it holds a permit exactly while DISPATCHED;
- it has a deadline timer, so that it cannot be stuck.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlm_wasm.errors import (
    BudgetExceeded,
    InternalError,
    LostInFlight,
    ProviderError,
    QueryError,
    WindowExceeded,
)
from rlm_wasm.ids import RequestId
from rlm_wasm.limits import ModelPrice
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler import run_events
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import CancelQuery, Respond, SendQuery
from rlm_wasm.scheduler.inputs import (
    ChildRequested,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    ToolCalled,
)
from rlm_wasm.scheduler.ledger import NOTHING, Charge, Dimension
from rlm_wasm.scheduler.messages import FinishReason, Usage
from rlm_wasm.scheduler.permits import Permits
from rlm_wasm.scheduler.pricing import (
    affordable_output,
    input_tokens_bound,
    prompt_bytes,
    reservation_charge,
    usage_charge,
)
from rlm_wasm.scheduler.request import (
    Cancelled,
    Completed,
    Denied,
    Failed,
    RequestState,
    RequestStep,
    Response,
    TimedOut,
)
from rlm_wasm.scheduler.retry import backoff_ms, jitter_unit
from rlm_wasm.scheduler.run_state import NS_PER_MS, OpenRequest, RunState


class QueryFlow:
    """Moves requests through their states; permits become dispatches only in `dispatch`."""

    def __init__(self, permits: Permits, buffer: EffectBuffer) -> None:
        self._permits = permits
        self._buffer = buffer

    def received(self, run: RunState, given: QueryReceived) -> None:
        """Accept a query and queue it, or refuse it."""
        try:
            request = self.accept(run, conversation_of(run, given), given)
        except QueryError as exc:
            self.refuse(run, given, exc)
        else:
            self.open(run, request)

    def refuse(self, run: RunState, given: QueryReceived, error: QueryError) -> None:
        """Answer a query that was not accepted."""
        refuse(self._buffer, run, given, error)

    def accept(self, run: RunState, conversation: ConversationState, given: QueryReceived) -> OpenRequest:
        """Return the request with its first reservation, or raise the QueryError that refuses it."""
        run.count_request(
            conversation, of_guest=given.origin == "guest"
        )  # first: a refused request counts too
        facts = run.facts
        routing, prices = facts.routing, facts.prices
        size = prompt_bytes(given.prompt_messages)  # once: a prompt can be long
        models = (given.model,) if routing is None else routing.candidates(given, prices, size)
        if models[0] not in prices:
            raise unknown_model(run)
        charge = _attempt_at_most(run, given, models, size)
        reservation = run.ledger.reserve(charge, conversation.view)
        timeout_ms = facts.query.timeout_ms_max
        if given.origin == "guest":
            timeout_ms = min(timeout_ms, run.wait_ms_max())
        elif given.origin == "last":  # the run's own timer may have been cleared
            left_ms = (conversation.deadline_ns - self._buffer.now_ns) // NS_PER_MS
            timeout_ms = max(1, min(timeout_ms, left_ms))
        timer = f"query_deadline:{given.request_id}"
        request = OpenRequest(
            given,
            conversation,
            charge,
            timeout_ms,
            self._buffer.after_ms(timeout_ms),
            timer,
            models,
            size,
        )
        request.hold(reservation)
        return request

    def give_back(self, run: RunState, request: OpenRequest) -> None:
        """Undo `accept`: the batch it came with was refused."""
        run.ledger.release(request.take_reservation())

    def open(self, run: RunState, request: OpenRequest) -> None:
        """Queue an accepted request for a permit."""
        query = request.query
        run.requests[query.request_id] = request
        request.conversation.open[query.request_id] = None
        data = run_events.query_received(run, request)
        self._buffer.record(run, "query_received", data, query.depth, query.parent)
        self._buffer.set_timer(run, request.deadline_timer, query.request_id, request.deadline_ns)
        self._permits.request(query.run_id, query.request_id, request.model)

    def dispatch(self, run: RunState, request: OpenRequest) -> None:
        """Send a request that has just been granted its permit."""
        request.step(RequestStep.DISPATCH)
        request.attempt += 1
        request.tries += 1
        request.sent_ns = self._buffer.now_ns
        query = request.query
        data: dict[str, object] = {"request": query.request_id, "attempt": request.attempt}
        self._buffer.record(run, "query_sent", data, query.depth, query.parent)
        self._buffer.add(
            SendQuery(
                query.run_id,
                query.request_id,
                request.attempt,
                request.model,
                query.prompt_messages,
                output_tokens_max=request.charge.output_tokens,
                timeout_ms=max(1, (request.deadline_ns - self._buffer.now_ns) // NS_PER_MS),
                answer_bytes_max=_answer_bytes_max(run, query),
            )
        )

    def answered(self, run: RunState, given: ProviderAnswered) -> None:
        """Settle and deliver an answer; a late one only corrects the account."""
        request = run.in_flight(given.request_id, given.attempt)
        if request is None:
            self._late_result(run, given)
            return
        if given.cache == "hit":  # nobody was asked
            run.ledger.release(request.take_reservation())
            actual = None
        else:
            actual = self._settle(run, request, given.usage)
        self._permits.release(run.run_id, request.request_id)
        self._permits.answered(request.model)
        request.cache = given.cache
        if actual is not None and given.usage is not None and not given.usage.input_estimated:
            run.window(request.model).counted(request.size, actual.input_tokens)
        window_tokens = run.window(request.query.model).tokens
        answer = Completed(given.text, given.usage if actual else None, given.finish, window_tokens)
        if not self._lengthen(run, request, answer):
            self._answer(run, request, answer)

    def failed(self, run: RunState, given: ProviderFailed) -> None:
        """Plan the next attempt, or deliver the failure; a late one only corrects the account."""
        request = run.in_flight(given.request_id, given.attempt)
        if request is None:
            self._late_result(run, given)
            return
        if given.sent:
            self._settle(run, request, given.usage)
        else:
            run.ledger.release(request.take_reservation())
        # No permit is held during the backoff: others may use it.
        self._permits.release(run.run_id, request.request_id)
        if given.throttled:
            self._throttled(run, request)
        if request.cut is not None:
            self._answer(run, request, request.cut, given, longer="failed")
            return
        delay_ms = self._delay_before_retry(run, request, given)
        if (delay_ms is None or given.throttled) and self._reroute(run, request, given):
            return
        if delay_ms is None:
            self._answer(run, request, Failed(self._told_of_wait(run, request, given)), given)
            return
        request.step(RequestStep.BACK_OFF)
        data = run_events.query_retry(run, request, given, delay_ms)
        self._buffer.record(run, "query_retry", data, request.query.depth, request.query.parent)
        at_ns = self._buffer.after_ms(delay_ms)
        self._buffer.set_timer(run, request.backoff_timer, request.request_id, at_ns)

    def timer_fired(self, run: RunState, request: OpenRequest, timer_id: str) -> None:
        """End a request at its deadline, or queue it again after its backoff."""
        if timer_id == request.deadline_timer:
            self.abandon(run, request, TimedOut(request.timeout_ms))
            return
        try:
            reservation = run.ledger.reserve(request.charge, request.conversation.view)
        except BudgetExceeded as exc:
            self._answer(run, request, Denied(exc))
        else:
            request.hold(reservation)
            data = run_events.query_requeued(request)
            self._buffer.record(run, "query_requeued", data, request.query.depth, request.query.parent)
            self._permits.request(run.run_id, request.request_id, request.model)

    def abandon(self, run: RunState, request: OpenRequest, response: Response) -> None:
        """End a request from outside: give back what it holds, then answer it."""
        if request.state is RequestState.DISPATCHED:
            reservation = request.take_reservation()
            run.ledger.settle_unconfirmed(reservation)
            run.unconfirmed[request.request_id, request.attempt] = (request, reservation)
            request.bill(request.charge, assumed=True)
            self._permits.release(run.run_id, request.request_id)
            self._buffer.add(CancelQuery(run.run_id, request.request_id, request.attempt))
        elif request.state is RequestState.QUEUED:
            run.ledger.release(request.take_reservation())
            self._permits.withdraw(run.run_id, request.request_id)
        if request.cut is not None and isinstance(response, TimedOut):
            self._answer(run, request, request.cut, longer="timed_out")
        else:
            self._answer(run, request, response)

    def _settle(self, run: RunState, request: OpenRequest, usage: Usage | None) -> Charge | None:
        """Charge an attempt at the price of the model that was asked; return None if its bill is not known.

        Then it costs all that it may have: what is reserved may be for a dearer model.
        """
        price = run.facts.prices[request.model]
        actual = usage_charge(price, usage)
        bound = request.charge
        if actual is None and len(request.models) > 1:
            bound = reservation_charge(price, bound.input_tokens, bound.output_tokens)
        run.ledger.settle(request.take_reservation(), actual or bound)
        request.bill(actual or bound, assumed=actual is None)
        return actual

    def _reroute(self, run: RunState, request: OpenRequest, given: ProviderFailed) -> bool:
        """Ask the next model at once, if there is one and the budget covers it and those behind it."""
        query, rest = request.query, request.models[1:]
        if not rest:
            return False
        charge = _attempt_at_most(run, query, rest, request.size)
        try:
            reservation = run.ledger.reserve(charge, request.conversation.view)
        except BudgetExceeded:
            return False
        request.models, request.charge, request.tries = rest, charge, 0
        request.step(RequestStep.BACK_OFF)
        request.hold(reservation)
        data = run_events.query_rerouted(run, request, given)
        self._buffer.record(run, "query_rerouted", data, query.depth, query.parent)
        self._permits.request(run.run_id, request.request_id, request.model)
        return True

    def _lengthen(self, run: RunState, request: OpenRequest, cut: Completed) -> bool:
        """Ask again for an answer that its cap cut off; return False where it is to stand as it is.

        That is a call of its own, reserved anew with the larger cap, one of the attempts, and made once.
        """
        query, conversation, limits = request.query, request.conversation, run.facts.query
        if (
            cut.finish is not FinishReason.LENGTH
            or request.cut is not None
            or query.origin == "last"  # it had what there was
            or query.output_tokens_max is not None
            or request.tries >= limits.attempts_max
        ):
            return False
        most = run.window(request.model).cap(request.size, max(1, limits.output_tokens_retry_max))
        if most <= request.charge.output_tokens:
            return False
        # Where that fails the answer stands: nobody else is asked.
        alone = request.models[:1]
        charge = _dearest(run, alone, request.charge.input_tokens, most)
        try:
            reservation = run.ledger.reserve(charge, conversation.view)
        except BudgetExceeded:
            return False
        request.cut, request.charge, request.models = cut, charge, alone
        request.step(RequestStep.BACK_OFF)
        request.hold(reservation)
        data = run_events.query_lengthened(run, request, cut)
        self._buffer.record(run, "query_lengthened", data, query.depth, query.parent)
        self._permits.request(run.run_id, request.request_id, request.model)
        return True

    def _answer(
        self,
        run: RunState,
        request: OpenRequest,
        response: Response,
        failure: ProviderFailed | None = None,
        longer: str | None = None,
    ) -> None:
        waited = request.state is RequestState.BACKOFF
        request.step(RequestStep.ANSWER)
        query = request.query
        if isinstance(response, Completed):
            run.answered_by[request.model] += 1
            run.cached += request.cache == "hit"
        del run.requests[query.request_id]
        del request.conversation.open[query.request_id]
        self._buffer.clear_timer(run, request.deadline_timer)
        if waited:
            self._buffer.clear_timer(run, request.backoff_timer)
        data = run_events.query_answered(run, request, response, failure, longer)
        self._buffer.record(run, "query_answered", data, query.depth, query.parent)
        self._buffer.add(Respond(run.run_id, request.request_id, response))

    def _delay_before_retry(self, run: RunState, request: OpenRequest, given: ProviderFailed) -> int | None:
        """Return how long to wait, or None if there is no next attempt before the deadline."""
        limits = run.facts.query
        if isinstance(given.error, LostInFlight):
            return 0  # no fault of the provider's
        if isinstance(given.error, WindowExceeded):
            return 0 if self._fits_after(run, request, given.error) else None
        if not given.retryable or request.tries >= limits.attempts_max:
            return None
        unit = jitter_unit(run.facts.seed, request.request_id, request.attempt)
        delay_ms = max(backoff_ms(request.tries, limits, unit), given.retry_after_ms or 0)
        return delay_ms if self._buffer.after_ms(delay_ms) < request.deadline_ns else None

    def _told_of_wait(self, run: RunState, request: OpenRequest, given: ProviderFailed) -> QueryError:
        """Return the failure; where only the wait that was asked for is too long, it says so."""
        error, wait_ms, limits = given.error, given.retry_after_ms, run.facts.query
        if (
            wait_ms is None
            or not given.retryable
            or request.tries >= limits.attempts_max
            or self._buffer.after_ms(wait_ms) < request.deadline_ns
        ):
            return error
        left_ms = max(0, request.deadline_ns - self._buffer.now_ns) // NS_PER_MS
        of_key = " of query.timeout_ms_max" if request.timeout_ms == limits.timeout_ms_max else ""
        told = f"{error.message}; it asks for a wait of {wait_ms} ms, and {left_ms} ms{of_key} are left"
        return ProviderError(told, hint=error.hint)

    def _fits_after(self, run: RunState, request: OpenRequest, error: WindowExceeded) -> bool:
        """Learn from what was too long, and allow the next attempt a shorter answer, if that can help."""
        size, cap, window = request.size, request.charge.output_tokens, run.window(request.model)
        window.refused(error, size)
        smaller = window.smaller_cap(error, size, cap)
        if smaller is None or request.tries >= run.facts.query.attempts_max:
            return False
        request.charge = _dearest(run, request.models, request.charge.input_tokens, smaller)
        return True

    def _late_result(self, run: RunState, given: ProviderAnswered | ProviderFailed) -> None:
        """Correct the account by a result that nobody waits for. A second report of it is ignored."""
        entry = run.unconfirmed.pop((given.request_id, given.attempt), None)
        if entry is None:
            return
        request, reservation = entry
        query, usage = request.query, given.usage
        actual = usage_charge(run.facts.prices[request.model], usage)
        if not given.sent if isinstance(given, ProviderFailed) else given.cache == "hit":
            actual = NOTHING
        billed = run.ledger.correct(reservation, actual)
        data = run_events.late_result(given, usage, billed)
        self._buffer.record(run, "late_result", data, query.depth, query.parent)

    def _throttled(self, run: RunState, request: OpenRequest) -> None:
        """Give a provider that asks for fewer requests fewer permits, and say so where that is news."""
        query = request.query
        permits = self._permits.refused(request.model, request.sent_ns, self._buffer.now_ns)
        if permits is not None:
            data: dict[str, object] = {"provider": request.model.partition(":")[0], "permits": permits}
            self._buffer.record(run, "provider_throttled", data, query.depth, query.parent)


def _answer_bytes_max(run: RunState, query: QueryReceived) -> int:
    most, part = run.facts.query.response_bytes_max, query.answer_bytes_max
    return most if part is None else min(most, part)


def _attempt_at_most(run: RunState, query: QueryReceived, models: Sequence[str], size: int) -> Charge:
    """Return what an attempt may cost, whichever answers, with the longest answer that the first may give."""
    limits, wanted = run.facts.query, query.output_tokens_max
    most = limits.output_tokens_max if wanted is None else min(limits.output_tokens_max, wanted)
    most = run.window(models[0]).cap(size, most)
    input_tokens = input_tokens_bound(size, limits.input_overhead_tokens)
    if query.origin == "last":
        # A shorter answer is better than none.
        most = min(_covered(run, run.facts.prices[model], input_tokens, most) for model in models)
    return _dearest(run, models, input_tokens, most)


def _dearest(run: RunState, models: Sequence[str], input_tokens: int, output_tokens_max: int) -> Charge:
    """Return what an attempt may cost, whichever of the models answers."""
    prices = run.facts.prices
    charges = [reservation_charge(prices[model], input_tokens, output_tokens_max) for model in models]
    return charges[0] if len(charges) == 1 else max(charges, key=lambda charge: charge.cost_microdollars)


def _covered(run: RunState, price: ModelPrice, input_tokens: int, output_tokens_max: int) -> int:
    """Return how long an answer may be that what is left still covers, 1 at the least."""
    ledger = run.ledger
    affordable = affordable_output(price, input_tokens, ledger.available(Dimension.COST))
    left = ledger.available(Dimension.OUTPUT_TOKENS)
    return max(1, min(output_tokens_max, left, left if affordable is None else affordable))


def conversation_of(run: RunState, given: QueryReceived | ChildRequested | ToolCalled) -> ConversationState:
    """Return the conversation that asks, or raise the QueryError for one that may not any more."""
    number = given.request_id
    if number in run.requests or number in run.children or number in run.calls:
        raise InternalError(f"request {given.request_id} of {given.run_id} is open already")
    conversation = live_conversation(run, given.parent)
    if conversation.depth != given.depth:
        raise InternalError(f"request {given.request_id} of {given.run_id} comes from another depth")
    return conversation


def live_conversation(run: RunState, parent: RequestId | None) -> ConversationState:
    """Return a conversation that may ask, or raise Stopping."""
    conversation = run.conversation(parent)
    if conversation is None:
        raise Stopping(str(StopReason.child_over()))
    stopping = run.stopping or conversation.stopping
    if stopping is not None:
        raise Stopping(str(stopping))
    return conversation


class Stopping(QueryError):
    """The conversation that asks is about to end; the message is the reason alone."""


def refuse(
    buffer: EffectBuffer,
    run: RunState,
    given: QueryReceived | ChildRequested | ToolCalled,
    error: QueryError,
) -> None:
    """Answer a request that was not accepted."""
    if isinstance(error, Stopping):
        # Not recorded: whether a guest asks once more before it is stopped is chance, and a log that
        # held it could not be replayed.
        buffer.add(Respond(given.run_id, given.request_id, Cancelled(error.message)))
        return
    run.recorder.deny(reason_of(error), given.request_id, given.depth, given.parent)
    buffer.add(Respond(given.run_id, given.request_id, Denied(error)))


def reason_of(error: QueryError) -> str:
    """Return the words under which refusals of this kind are counted together."""
    if isinstance(error, BudgetExceeded):
        return str(StopReason.budget(error.dimension, error.limit))
    return type(error).__name__


def unknown_model(run: RunState) -> QueryError:
    """Return what to say about a model that the run may not ask.

    The names it may ask are no secret, and models do invent names. The one that was given is the
    guest's text and is not repeated.
    """
    return QueryError(f"no model of that name may be asked; there are: {', '.join(sorted(run.facts.prices))}")
