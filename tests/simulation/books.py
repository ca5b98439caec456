"""An independent account of everything the scheduler is told and everything it decides.

The books see inputs and effects, nothing else. They do the sums again, in their own way, and note where
the scheduler differs; what it says about itself is only compared. The numbers of the invariants are those
of the design: reserve before send (1), permits (2), one terminal response (3), order and bytes (4), zero
at the end (5), bounded observations (6), equal accounts (7), nothing stuck (8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

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
    IterationStarted,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RunCancelled,
    RunEnded,
    RunStarted,
    TimerFired,
)
from rlm_wasm.core.messages import Usage
from rlm_wasm.core.request import Completed, Denied
from rlm_wasm.errors import BudgetExceeded
from rlm_wasm.ids import RequestId, RunId

Amounts = dict[str, int]
# A timer may be noticed so much after it was due: virtual lateness, and rounds of callbacks.
LATE_NS_MAX: Final = 100_000_000
_TOKENS_BELIEVED_MAX: Final = 10**9
_OPEN: Final = ("queued", "flying", "backoff")


@dataclass(slots=True)
class _Request:
    query: QueryReceived
    bound: Amounts
    where: str
    deadline_ns: int
    attempts: int = 0


@dataclass(slots=True)
class _Run:
    facts: RunStarted
    limits: Amounts
    requests: dict[RequestId, _Request] = field(default_factory=dict)
    paid: Amounts = field(default_factory=dict)
    late: dict[tuple[RequestId, int], Amounts] = field(default_factory=dict)
    corrected: set[tuple[RequestId, int]] = field(default_factory=set)
    timers: dict[str, int] = field(default_factory=dict)
    responses: dict[RequestId, int] = field(default_factory=dict)
    seq: int = 0
    at_ns: int = 0
    ending: bool = False
    ended_ns: int = 0

    def pay(self, amounts: Amounts) -> None:
        for name, amount in amounts.items():
            self.paid[name] = self.paid.get(name, 0) + amount

    def spent(self, name: str) -> int:
        return self.paid.get(name, 0) + sum(late.get(name, 0) for late in self.late.values())

    def reserved(self, name: str) -> int:
        return sum(r.bound.get(name, 0) for r in self.requests.values() if r.where in ("queued", "flying"))

    def fits(self, amounts: Amounts) -> bool:
        return all(
            amount == 0 or self.spent(name) + self.reserved(name) + amount <= self.limits[name]
            for name, amount in amounts.items()
        )


class Books:
    """Call `took` after each input, with its effects. `wrong` gathers what must not be."""

    def __init__(self, permits_max: int) -> None:
        self.permits_max: Final = permits_max
        self.runs: dict[RunId, _Run] = {}
        self.ended: dict[RunId, _Run] = {}
        self.wrong: list[str] = []
        self.inputs = 0
        self.sends: list[SendQuery] = []
        self._now_ns = 0

    def took(self, given: Input, effects: list[Effect], now_ns: int, view: Callable[[RunId], Any]) -> None:
        """Account for one input and check everything that must hold after it."""
        self.inputs += 1
        self._now_ns = max(self._now_ns, now_ns)
        before = len(self.wrong)
        self._given(given)
        for effect in effects:
            self._effect(effect)
        self._after(given, effects)
        self._accounts_agree(view)
        self._nobody_waits_in_vain()
        if len(self.wrong) > before:
            self.wrong[before] += f" [at input {self.inputs}: {str(given)[:200]}]"

    def check(self, holds: bool, what: str) -> None:
        """Note `what` if it does not hold."""
        if not holds:
            self.wrong.append(what)

    @property
    def flying(self) -> int:
        """How many attempts hold a permit."""
        return sum(r.where == "flying" for run in self.runs.values() for r in run.requests.values())

    # -- inputs -------------------------------------------------------------------------------------

    def _given(self, given: Input) -> None:
        if isinstance(given, RunStarted):
            budget = given.budget
            names = [name for name in budget.__slots__ if name.endswith("_max")]  # type: ignore[attr-defined]
            limits = {name.removesuffix("_max"): getattr(budget, name) for name in names}
            self.check(given.run_id not in self.runs, "4: a run started twice")
            self.runs[given.run_id] = _Run(given, limits)
            return
        run = self.runs.get(given.run_id)
        if run is None:
            return
        match given:
            case QueryReceived():
                self._asked(run, given)
            case ProviderAnswered(request_id=number, attempt=attempt):
                self._reported(run, number, attempt, self._bill(run, number, given.usage), "answering")
            case ProviderFailed(request_id=number, attempt=attempt):
                bill = None if given.sent else {}
                self._reported(run, number, attempt, bill, "failing")
            case TimerFired(timer_id=timer_id):
                self._fired(run, timer_id)
            case IterationStarted():
                if not run.ending and run.fits({"iterations": 1, "fuel": 1}):
                    run.pay({"iterations": 1})
            case FuelUsed(fuel=fuel):
                run.pay({"fuel": fuel})
            case RunCancelled():
                pass  # the effects say the rest
            case RunEnded():
                run.ending = True

    def _asked(self, run: _Run, given: QueryReceived) -> None:
        facts = run.facts
        self.check(given.request_id not in run.requests, "3: a request number was used twice")
        price = facts.prices.get(given.model)
        told = sum(
            len(m.role) + len(m.content.encode("utf-8", "surrogatepass")) for m in given.prompt_messages
        )
        output = min(facts.query.output_tokens_max, given.output_tokens_max or facts.query.output_tokens_max)
        bound = {} if price is None else _cost(price, told + facts.query.input_overhead_tokens, output)
        counted = not run.ending and run.fits({"requests": 1})
        if counted:
            run.pay({"requests": 1})
        known = price is not None and given.depth <= facts.run.depth_max
        accepted = counted and known and run.fits(bound)
        wait_ms = facts.query.timeout_ms_max
        if given.origin == "guest":
            wait_ms = min(wait_ms, facts.boundary.host_wait_ms_max)
        deadline_ns = self._now_ns + wait_ms * 1_000_000
        where = "queued" if accepted else "refused"
        run.requests[given.request_id] = _Request(given, bound, where, deadline_ns)

    def _bill(self, run: _Run, number: RequestId, usage: Usage | None) -> Amounts | None:
        if usage is None or not all(
            0 <= tokens <= _TOKENS_BELIEVED_MAX for tokens in (usage.input_tokens, usage.output_tokens)
        ):
            return None
        price = run.facts.prices[run.requests[number].query.model]
        return _cost(price, usage.input_tokens, usage.output_tokens)

    def _reported(
        self, run: _Run, number: RequestId, attempt: int, bill: Amounts | None, becomes: str
    ) -> None:
        request = run.requests[number]
        if request.where == "flying" and request.attempts == attempt:
            run.pay(request.bound if bill is None else bill)
            request.where = becomes
        elif (number, attempt) in run.late and (number, attempt) not in run.corrected:
            run.corrected.add((number, attempt))
            if bill is not None:
                bound = run.late[number, attempt]
                run.late[number, attempt] = {name: min(bound[name], bill.get(name, 0)) for name in bound}

    def _fired(self, run: _Run, timer_id: str) -> None:
        at_ns = run.timers.pop(timer_id, None)
        if at_ns is None:
            return
        self.check(self._now_ns >= at_ns, f"4: the timer {timer_id} fired before its time")
        self.check(self._now_ns <= at_ns + LATE_NS_MAX, f"8: the timer {timer_id} fired late")
        kind, _, number = timer_id.partition(":")
        if kind == "query_backoff":
            request = run.requests[RequestId(int(number))]
            self.check(request.where == "backoff", "3: a backoff ended that was none")
            request.where = "queued" if run.fits(request.bound) else "refused"

    # -- effects ------------------------------------------------------------------------------------

    def _effect(self, effect: Effect) -> None:
        match effect:
            case SendQuery():
                self._sent(effect)
            case CancelQuery(run_id=run_id, request_id=number, attempt=attempt):
                run, request = self.runs[run_id], self.runs[run_id].requests[number]
                self.check(request.where == "flying", "2: an attempt was cancelled that did not fly")
                self.check(request.attempts == attempt, "3: another attempt was cancelled")
                request.where = "cancelled"
                run.late[number, attempt] = request.bound
            case Respond():
                self._responded(effect)
            case SetTimer(run_id=run_id, timer_id=timer_id, at_ns=at_ns):
                run = self.runs[run_id]
                self.check(timer_id not in run.timers, f"5: the timer {timer_id} is set twice")
                self.check(at_ns >= self._now_ns, f"8: the timer {timer_id} is set into the past")
                run.timers[timer_id] = at_ns
                kind, _, text = timer_id.partition(":")
                if kind == "query_backoff":
                    request = run.requests[RequestId(int(text))]
                    self.check(request.where == "failing", "2: a backoff of what did not fail")
                    request.where = "backoff"
            case ClearTimer(run_id=run_id, timer_id=timer_id):
                self.check(timer_id in self.runs[run_id].timers, f"5: {timer_id} is cleared and was not set")
                self.runs[run_id].timers.pop(timer_id, None)
            case EmitEvent(event=event):
                found = self.runs.get(event.run_id)
                self.check(found is not None, "4: an event after the end of its run")
                if found is not None:
                    self.check(event.seq == found.seq, "4: a gap in the events")
                    self.check(event.at_ns >= found.at_ns, "4: an event before the one before it")
                    found.seq, found.at_ns = event.seq + 1, event.at_ns
                    if event.kind == "run_ended":
                        self._closed(found, event.data)
            case EndRun(run_id=run_id):
                self.check(not self.runs[run_id].ending, "3: a second EndRun")
                self.runs[run_id].ending = True

    def _sent(self, effect: SendQuery) -> None:
        run = self.runs[effect.run_id]
        request = run.requests[effect.request_id]
        self.sends.append(effect)
        self.check(request.where == "queued", f"1: a {request.where} request was sent, with no reservation")
        request.where = "flying"
        request.attempts += 1
        self.check(effect.attempt == request.attempts, "3: attempts are counted in order")
        self.check(effect.attempt <= run.facts.query.attempts_max, "3: more attempts than allowed")
        self.check(
            effect.output_tokens_max == request.bound["output_tokens"], "1: sent without its token cap"
        )
        self.check(effect.messages == request.query.prompt_messages, "4: other messages than were asked")
        self.check(self.flying <= self.permits_max, f"2: more than {self.permits_max} permits are held")
        own = sum(r.where == "flying" for r in run.requests.values())
        self.check(own <= run.facts.run.permits_max, "2: a run holds more than its share of permits")

    def _responded(self, effect: Respond) -> None:
        run = self.runs.get(effect.run_id) or self.ended.get(effect.run_id)
        if run is None:
            self.check(False, "3: a response in a run that never was")
            return
        count = run.responses.get(effect.request_id, 0) + 1
        run.responses[effect.request_id] = count
        self.check(count == 1, "3: a second terminal response")
        request = run.requests.get(effect.request_id)
        if request is None:
            self.check(effect.run_id in self.ended, "3: a response nobody asked for")
            return
        self.check(request.where != "flying", "3: answered while it holds its permit and reservation")
        completed = isinstance(effect.response, Completed)
        self.check(completed == (request.where == "answering"), f"3: {request.where} and {effect.response}")
        if isinstance(effect.response, Denied) and isinstance(effect.response.error, BudgetExceeded):
            self.check(request.where == "refused", "1: denied although it fits")
        request.where = "answered"

    def _closed(self, run: _Run, data: dict[str, object]) -> None:
        """The run's last event: everything is zero, and what it tells is what was spent."""
        open_ = [number for number, request in run.requests.items() if request.where in _OPEN]
        self.check(not open_, f"3: the run ended before its requests {open_}")
        self.check(not run.timers, f"5: the run ended before its timers {sorted(run.timers)}")
        unanswered = run.requests.keys() - run.responses.keys()
        self.check(not unanswered, f"3: the run ended and {sorted(unanswered)} have no response")
        for name in run.limits:
            self.check(data.get(f"{name}_spent") == run.spent(name), f"7: run_ended tells other {name}")
        run.ended_ns = self._now_ns
        self.ended[run.facts.run_id] = self.runs.pop(run.facts.run_id)

    # -- after each input ---------------------------------------------------------------------------

    def _after(self, given: Input, effects: list[Effect]) -> None:
        responses = [effect for effect in effects if isinstance(effect, Respond)]
        if isinstance(given, QueryReceived):
            run = self.runs.get(given.run_id)
            request = run.requests.get(given.request_id) if run else None
            own = [r for r in responses if (r.run_id, r.request_id) == (given.run_id, given.request_id)]
            refused = request is None or request.where in ("refused", "answered")
            self.check(
                len(own) == int(refused), "3: a refused query is answered at once, an accepted one not"
            )
        for run in self.runs.values():
            for number, request in run.requests.items():
                settled = request.where in (*_OPEN, "answered")
                self.check(settled, f"3: request {number} was left {request.where}")

    def _accounts_agree(self, view: Callable[[RunId], Any]) -> None:
        for run_id, run in self.runs.items():
            for dimension, line in view(run_id).items():
                name = str(dimension)
                if name not in run.limits:
                    continue
                theirs, ours = (line.spent, line.reserved), (run.spent(name), run.reserved(name))
                self.check(theirs == ours, f"7: {name} is {theirs} in the ledger and {ours} in the books")

    def _nobody_waits_in_vain(self) -> None:
        flying = self.flying
        for run in self.runs.values():
            own = sum(request.where == "flying" for request in run.requests.values())
            busy = flying >= self.permits_max or own >= run.facts.run.permits_max
            for number, request in run.requests.items():
                if request.where not in _OPEN:
                    continue
                self.check(request.where != "queued" or busy, f"8: {number} waits for a permit that is free")
                self.check(
                    self._now_ns <= request.deadline_ns + LATE_NS_MAX,
                    f"8: {number} is {request.where} after its deadline",
                )
                self.check(f"query_deadline:{number}" in run.timers, f"8: {number} has no deadline")
                if request.where == "backoff":
                    self.check(f"query_backoff:{number}" in run.timers, f"8: {number} backs off for ever")


def _cost(price: Any, input_tokens: int, output_tokens: int) -> Amounts:
    exact = (
        input_tokens * price.input_microdollars_per_mtok + output_tokens * price.output_microdollars_per_mtok
    )
    return {
        "calls": 1,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_microdollars": (exact + 999_999) // 1_000_000,
    }
