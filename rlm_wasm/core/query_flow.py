"""The way of a query from its arrival to its one terminal response.

After every method:
- an open request is QUEUED or DISPATCHED with one reservation, or in BACKOFF with none;
- it holds a permit exactly while DISPATCHED;
- it has a deadline timer, so that it cannot be stuck.
"""

from __future__ import annotations

from rlm_wasm.core import run_events
from rlm_wasm.core.effects import CancelQuery, Respond, SendQuery
from rlm_wasm.core.inputs import ProviderAnswered, ProviderFailed, QueryReceived
from rlm_wasm.core.ledger import Charge
from rlm_wasm.core.outbox import Outbox
from rlm_wasm.core.permits import Permits
from rlm_wasm.core.pricing import input_tokens_bound, reservation_charge, usage_charge
from rlm_wasm.core.request import Cancelled, Completed, Denied, Failed, Response, State, Step, TimedOut
from rlm_wasm.core.retry import backoff_ms, jitter_unit
from rlm_wasm.core.run_state import NS_PER_MS, OpenRequest, RunState
from rlm_wasm.errors import BudgetExceeded, DepthExceeded, InternalError, QueryError


class QueryFlow:
    """Moves requests through their states; permits become dispatches only in `dispatch`."""

    def __init__(self, permits: Permits, outbox: Outbox) -> None:
        self._permits = permits
        self._outbox = outbox

    def received(self, run: RunState, given: QueryReceived) -> None:
        """Accept a query and queue it, or refuse it."""
        if given.request_id in run.requests:
            raise InternalError(f"request {given.request_id} of {given.run_id} is open already")
        if run.stopping is not None:
            # Not recorded: whether a guest asks once more before it is stopped is chance, and a log that
            # held it could not be replayed.
            self._outbox.add(Respond(given.run_id, given.request_id, Cancelled(run.stopping)))
            return
        try:
            request = self._accept(run, given)
        except BudgetExceeded as exc:
            self._refuse(run, given, f"budget: {exc.dimension}", Denied(exc))
        except QueryError as exc:
            self._refuse(run, given, type(exc).__name__, Denied(exc))
        else:
            run.requests[given.request_id] = request
            self._outbox.record(run, "query_received", run_events.query_received(run, request), given)
            self._outbox.set_timer(run, request.deadline_timer, given.request_id, request.deadline_ns)
            self._permits.request(given.run_id, given.request_id)

    def dispatch(self, run: RunState, request: OpenRequest) -> None:
        """Send a request that has just been granted its permit."""
        request.step(Step.DISPATCH)
        request.attempt += 1
        query = request.query
        data: dict[str, object] = {"request": query.request_id, "attempt": request.attempt}
        self._outbox.record(run, "query_sent", data, query)
        self._outbox.add(
            SendQuery(
                query.run_id,
                query.request_id,
                request.attempt,
                query.model,
                query.prompt_messages,
                output_tokens_max=request.charge.output_tokens,
                timeout_ms=max(1, (request.deadline_ns - self._outbox.now_ns) // NS_PER_MS),
            )
        )

    def answered(self, run: RunState, given: ProviderAnswered) -> None:
        """Settle and deliver an answer; a late one only corrects the account."""
        request = run.in_flight(given.request_id, given.attempt)
        if request is None:
            self._late_result(run, given)
            return
        actual = usage_charge(run.facts.prices[request.query.model], given.usage)
        run.ledger.settle(request.take_reservation(), actual)
        request.bill(actual or request.charge, assumed=actual is None)
        self._permits.release(run.run_id, request.request_id)
        self._answer(run, request, Completed(given.text, given.usage if actual else None))

    def failed(self, run: RunState, given: ProviderFailed) -> None:
        """Plan the next attempt, or deliver the failure; a late one only corrects the account."""
        request = run.in_flight(given.request_id, given.attempt)
        if request is None:
            self._late_result(run, given)
            return
        if given.sent:
            run.ledger.settle(request.take_reservation(), None)
            request.bill(request.charge, assumed=True)
        else:
            run.ledger.release(request.take_reservation())
        # No permit is held during the backoff: others may use it.
        self._permits.release(run.run_id, request.request_id)
        delay_ms = self._delay_before_retry(run, request, given)
        if delay_ms is None:
            self._answer(run, request, Failed(given.error), sent=given.sent)
            return
        request.step(Step.BACK_OFF)
        data = run_events.query_retry(run, request, given, delay_ms)
        self._outbox.record(run, "query_retry", data, request.query)
        at_ns = self._outbox.after_ms(delay_ms)
        self._outbox.set_timer(run, request.backoff_timer, request.request_id, at_ns)

    def timer_fired(self, run: RunState, request: OpenRequest, timer_id: str) -> None:
        """End a request at its deadline, or queue it again after its backoff."""
        if timer_id == request.deadline_timer:
            self._abandon(run, request, TimedOut(request.timeout_ms))
            return
        try:
            reservation = run.ledger.reserve(request.charge)
        except BudgetExceeded as exc:
            self._answer(run, request, Denied(exc))
        else:
            request.hold(reservation)
            data = run_events.query_requeued(request)
            self._outbox.record(run, "query_requeued", data, request.query)
            self._permits.request(run.run_id, request.request_id)

    def cancel_all(self, run: RunState, reason: str) -> None:
        """End every open request of a run."""
        for request in tuple(run.requests.values()):
            self._abandon(run, request, Cancelled(reason))

    def _accept(self, run: RunState, given: QueryReceived) -> OpenRequest:
        """Return the request with its first reservation, or raise the QueryError that refuses it."""
        run.ledger.spend(Charge(requests=1))  # before anything else: a refused request counts too
        facts = run.facts
        if given.depth > facts.run.depth_max:
            raise DepthExceeded(f"depth {given.depth} is beyond the policy's {facts.run.depth_max}")
        price = facts.prices.get(given.model)
        if price is None:
            raise QueryError("the policy gives no price for this model, so it cannot be used")
        output_tokens_max = facts.query.output_tokens_max
        if given.output_tokens_max is not None:
            output_tokens_max = min(output_tokens_max, given.output_tokens_max)
        input_tokens = input_tokens_bound(given.prompt_messages, facts.query.input_overhead_tokens)
        charge = reservation_charge(price, input_tokens, output_tokens_max)
        reservation = run.ledger.reserve(charge)
        timeout_ms = run.timeout_ms(given)
        request = OpenRequest(given, charge, timeout_ms, self._outbox.after_ms(timeout_ms))
        request.hold(reservation)
        return request

    def _refuse(self, run: RunState, given: QueryReceived, reason: str, response: Response) -> None:
        run.journal.deny(reason, given.request_id)
        self._outbox.add(Respond(given.run_id, given.request_id, response))

    def _abandon(self, run: RunState, request: OpenRequest, response: Response) -> None:
        """End a request from outside: give back what it holds, then answer it."""
        if request.state is State.DISPATCHED:
            reservation = request.take_reservation()
            run.ledger.settle_unconfirmed(reservation)
            run.unconfirmed[request.request_id, request.attempt] = (request.query, reservation)
            request.bill(request.charge, assumed=True)
            self._permits.release(run.run_id, request.request_id)
            self._outbox.add(CancelQuery(run.run_id, request.request_id, request.attempt))
        elif request.state is State.QUEUED:
            run.ledger.release(request.take_reservation())
            self._permits.withdraw(run.run_id, request.request_id)
        self._answer(run, request, response)

    def _answer(
        self, run: RunState, request: OpenRequest, response: Response, *, sent: bool | None = None
    ) -> None:
        request.step(Step.ANSWER)
        del run.requests[request.request_id]
        self._outbox.clear_timer(run, request.deadline_timer)
        self._outbox.clear_timer(run, request.backoff_timer)
        data = run_events.query_answered(run, request, response, sent)
        self._outbox.record(run, "query_answered", data, request.query)
        self._outbox.add(Respond(run.run_id, request.request_id, response))

    def _delay_before_retry(self, run: RunState, request: OpenRequest, given: ProviderFailed) -> int | None:
        """Return how long to wait, or None if there is no next attempt before the deadline."""
        limits = run.facts.query
        if not given.retryable or request.attempt >= limits.attempts_max:
            return None
        unit = jitter_unit(run.facts.seed, request.request_id, request.attempt)
        delay_ms = max(backoff_ms(request.attempt, limits, unit), given.retry_after_ms or 0)
        return delay_ms if self._outbox.after_ms(delay_ms) < request.deadline_ns else None

    def _late_result(self, run: RunState, given: ProviderAnswered | ProviderFailed) -> None:
        """Correct the account by a result that nobody waits for. A second report of it is ignored."""
        entry = run.unconfirmed.pop((given.request_id, given.attempt), None)
        if entry is None:
            return
        query, reservation = entry
        if isinstance(given, ProviderAnswered):
            usage, actual = given.usage, usage_charge(run.facts.prices[query.model], given.usage)
        else:
            usage, actual = None, None if given.sent else Charge()
        billed = run.ledger.correct(reservation, actual)
        self._outbox.record(run, "late_result", run_events.late_result(given, usage, billed), query)
