"""The scheduler under random interleavings, against a world that keeps its own books.

The world plays guest, provider, clock and operator. It believes nothing that the scheduler says
without checking it against the invariants of the design: one terminal response a request, permits
never exceeded, spent and reserved as the books have them, events without gaps, nothing left at the
end, nothing stuck when every provider falls silent, and the same inputs giving the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    RunCancelled,
    RunEnded,
    TimerFired,
)
from rlm_wasm.core.ledger import Dimension
from rlm_wasm.core.messages import Usage
from rlm_wasm.core.request import Completed, Denied
from rlm_wasm.core.scheduler import Scheduler
from rlm_wasm.errors import BudgetExceeded, ProviderError
from rlm_wasm.ids import RequestId, RunId
from tests.support.core_facts import MS, budget, permit_limits, query, query_limits, run_limits, started

D = Dimension
Attempt = tuple[RunId, RequestId, int]
QUERY_DIMENSIONS = (D.CALLS, D.INPUT_TOKENS, D.OUTPUT_TOKENS, D.COST)
picks = st.integers(0, 10_000)


def charge(input_tokens: int, output_tokens: int) -> dict[D, int]:
    """Price a call the way the test's price list says: 2 and 4 micro-dollars a token."""
    cost = ceil(2 * input_tokens + 4 * output_tokens)
    return {D.CALLS: 1, D.INPUT_TOKENS: input_tokens, D.OUTPUT_TOKENS: output_tokens, D.COST: cost}


@dataclass
class BookOfRequest:
    bound: dict[D, int]
    where: str = "queued"  # queued, flying, backoff, answered
    attempts: int = 0


@dataclass
class BookOfRun:
    """What the world knows about one run."""

    limits: dict[D, int]
    permits_max: int
    requests: dict[RequestId, BookOfRequest] = field(default_factory=dict)
    paid: list[dict[D, int]] = field(default_factory=list)
    late: dict[tuple[RequestId, int], dict[D, int]] = field(default_factory=dict)
    timers: dict[str, int] = field(default_factory=dict)
    seq: int = 0
    ending: bool = False
    ended: bool = False

    def spent(self, dimension: D) -> int:
        return sum(c.get(dimension, 0) for c in [*self.paid, *self.late.values()])

    def reserved(self, dimension: D) -> int:
        holding = [r for r in self.requests.values() if r.where in ("queued", "flying")]
        return sum(r.bound.get(dimension, 0) for r in holding)

    def fits(self, amounts: dict[D, int]) -> bool:
        return all(
            amount == 0 or self.spent(d) + self.reserved(d) + amount <= self.limits[d]
            for d, amount in amounts.items()
        )


@dataclass(frozen=True)
class RunFacts:
    calls: int
    tokens: int
    permits: int
    attempts: int
    events: int
    seed: int
    texts: bool


run_facts = st.builds(
    RunFacts,
    calls=st.integers(0, 40),
    tokens=st.integers(200, 5_000),
    permits=st.integers(1, 3),
    attempts=st.sampled_from([1, 2, 5, 5]),
    events=st.sampled_from([1_000, 1_000, 1, 5]),
    seed=st.integers(0, 3),
    texts=st.booleans(),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Invariants 1 to 5, 7 and 8 of the design, over several runs at once."""

    @initialize(
        permits_max=st.integers(1, 4),
        calm=st.sampled_from([True, True, False]),
        first=run_facts,
        second=run_facts,
    )
    def begin(self, permits_max: int, calm: bool, first: RunFacts, second: RunFacts) -> None:
        self.permits_max = permits_max
        self.calm = calm  # in most worlds nobody ends a run by hand, so that more happens in it
        self.scheduler = Scheduler(permit_limits(permits_max))
        self.now_ns = 0
        self.runs: dict[RunId, BookOfRun] = {}
        self.flying: list[Attempt] = []
        self.cancelled: list[Attempt] = []  # cancelled in flight: their results may still come
        self.reported: list[Attempt] = []  # attempts whose result has come
        self.tape: list[tuple[Input, int]] = []
        self.bytes: list[bytes] = []
        self.said: list[str] = []
        self.number = 0
        # Work is there from the start: a random choice of rules must not spend itself on idle worlds.
        for facts in (first, second):
            self.start(facts)
        for prompt in "abc":
            for run_id in tuple(self.runs):
                self.ask(run_id, prompt, None)

    # What the world does

    @precondition(lambda self: len(self.runs) < 4)
    @rule(facts=run_facts)
    def start(self, facts: RunFacts) -> None:
        run_id = RunId(f"run_{len(self.runs)}")
        limits = budget(
            calls_max=facts.calls,
            requests_max=40,
            output_tokens_max=facts.tokens,
            iterations_max=20,
            fuel_max=100,
        )
        self.runs[run_id] = BookOfRun({d: getattr(limits, f"{d.value}_max") for d in D}, facts.permits)
        self.give(
            started(
                run_id,
                budget=limits,
                run=run_limits(permits_max=facts.permits, events_max=facts.events, wall_ms_max=20_000),
                query=query_limits(attempts_max=facts.attempts),
                seed=facts.seed,
                texts=facts.texts,
            )
        )

    @rule(pick=picks, prompts=st.lists(st.text(max_size=20), min_size=1, max_size=4))
    def ask_a_batch(self, pick: int, prompts: list[str]) -> None:
        run_id, _ = self.pick_run(pick)
        for prompt in prompts:
            self.ask(run_id, prompt, None)

    @rule(pick=picks, prompt=st.text(max_size=20), output=st.integers(1, 200))
    def ask_with_a_token_cap(self, pick: int, prompt: str, output: int) -> None:
        self.ask(self.pick_run(pick)[0], prompt, output)

    def ask(self, run_id: RunId, prompt: str, output: int | None) -> None:
        run = self.runs[run_id]
        self.number += 1
        number = RequestId(self.number)
        bound = charge(10 + len(prompt.encode("utf-8", "surrogatepass")), min(output or 100, 100))
        live = not (run.ended or run.ending)
        counted = live and run.fits({D.REQUESTS: 1})
        if counted:
            run.paid.append({D.REQUESTS: 1})
        accepted = counted and run.fits(bound)
        run.requests[number] = BookOfRequest(bound, "queued" if accepted else "refused")
        said = self.give(query(number, run_id, prompt, output_tokens_max=output))
        if not accepted:
            (refusal,) = [e for e in said if isinstance(e, Respond)]
            assert (refusal.run_id, refusal.request_id) == (run_id, number)
            if live:
                assert isinstance(refusal.response, Denied)
                assert isinstance(refusal.response.error, BudgetExceeded)
            else:
                assert refusal.response.status == "cancelled"

    @precondition(lambda self: self.flying)
    @rule(pick=picks, usage=st.none() | st.builds(Usage, st.integers(-1, 60), st.integers(-1, 130)))
    def answer(self, pick: int, usage: Usage | None) -> None:
        attempt = self.flying.pop(pick % len(self.flying))
        self.reported.append(attempt)
        run_id, number, _ = attempt
        run, request = self.runs[run_id], self.runs[run_id].requests[number]
        request.where = "answering"
        run.paid.append(self.bill(usage, request.bound))
        said = self.give(ProviderAnswered(*attempt, "text", usage))
        (response,) = [e.response for e in said if isinstance(e, Respond) and e.request_id == number]
        assert isinstance(response, Completed)

    @precondition(lambda self: self.flying)
    @rule(
        pick=picks,
        retryable=st.sampled_from([True, True, True, False]),
        was_sent=st.booleans(),
        after=st.sampled_from([None, None, -5, 100, 1_200]),
    )
    def fail(self, pick: int, retryable: bool, was_sent: bool, after: int | None) -> None:
        attempt = self.flying.pop(pick % len(self.flying))
        self.reported.append(attempt)
        run_id, number, _ = attempt
        run, request = self.runs[run_id], self.runs[run_id].requests[number]
        request.where = "failing"
        if was_sent:
            run.paid.append(request.bound)
        self.give(ProviderFailed(*attempt, ProviderError("down"), retryable, was_sent, after))
        assert request.where in (("backoff", "answered") if retryable else ("answered",))

    @precondition(lambda self: self.cancelled)
    @rule(pick=picks, usage=st.none() | st.builds(Usage, st.integers(-1, 60), st.integers(-1, 130)))
    def answer_late(self, pick: int, usage: Usage | None) -> None:
        attempt = self.cancelled.pop(pick % len(self.cancelled))
        self.reported.append(attempt)
        run_id, number, count = attempt
        run = self.runs[run_id]
        bound = run.late.get((number, count))
        if bound is not None and not run.ended:
            bill = self.bill(usage, bound)
            run.late[number, count] = {d: min(bill[d], bound[d]) for d in bound}
        said = self.give(ProviderAnswered(*attempt, "late", usage))
        assert not [e for e in said if isinstance(e, Respond)]

    @precondition(lambda self: self.reported)
    @rule(pick=picks, answers=st.booleans())
    def report_again(self, pick: int, answers: bool) -> None:
        """A second result of an attempt, even while the next attempt is in flight, is nothing."""
        flying = {(run_id, number) for run_id, number, _ in self.flying}
        choices = [attempt for attempt in self.reported if attempt[:2] in flying] or self.reported
        attempt = choices[pick % len(choices)]
        if answers:
            assert self.give(ProviderAnswered(*attempt, "again", Usage(1, 1))) == []
        else:
            assert self.give(ProviderFailed(*attempt, ProviderError("again"), True, True)) == []

    @precondition(lambda self: any(run.timers for run in self.runs.values()))
    @rule()
    def let_the_next_timer_fire(self) -> None:
        at_ns, run_id, timer_id = min(
            (at_ns, run_id, timer_id)
            for run_id, run in self.runs.items()
            for timer_id, at_ns in run.timers.items()
        )
        self.now_ns = max(self.now_ns, at_ns)
        self.fire(run_id, timer_id)

    @rule(ms=st.integers(0, 400))
    def let_time_pass(self, ms: int) -> None:
        self.now_ns += ms * MS

    @rule(pick=picks)
    def fire_a_stale_timer(self, pick: int) -> None:
        run_id, run = self.pick_run(pick)
        timer_id = f"query_deadline:{pick}"
        if timer_id not in run.timers:
            assert self.give(TimerFired(run_id, timer_id)) == []

    @rule(pick=picks, fuel=st.sampled_from([0, 1, 2, 3, 40]))
    def burn(self, pick: int, fuel: int) -> None:
        run_id, run = self.pick_run(pick)
        if not run.ended:
            run.paid.append({D.FUEL: fuel})
        self.give(FuelUsed(run_id, fuel))

    @rule(pick=picks)
    def next_turn(self, pick: int) -> None:
        run_id, run = self.pick_run(pick)
        live = not (run.ended or run.ending)
        fits = run.fits({D.ITERATIONS: 1, D.FUEL: 1})
        if live and fits:
            run.paid.append({D.ITERATIONS: 1})
        said = self.give(IterationStarted(run_id))
        assert any(isinstance(e, EndRun) for e in said) == (live and not fits)

    @precondition(lambda self: not self.calm)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        run_id, run = self.pick_run(pick)
        self.give(RunCancelled(run_id, "by hand"))
        assert run.ended or run.ending

    @precondition(lambda self: not self.calm)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        self.finish(self.pick_run(pick)[0])

    # How the world keeps its books

    def pick_run(self, pick: int) -> tuple[RunId, BookOfRun]:
        run_id = list(self.runs)[pick % len(self.runs)]
        return run_id, self.runs[run_id]

    @staticmethod
    def bill(usage: Usage | None, bound: dict[D, int]) -> dict[D, int]:
        if usage is None or usage.input_tokens < 0 or usage.output_tokens < 0:
            return bound
        return charge(usage.input_tokens, usage.output_tokens)

    def fire(self, run_id: RunId, timer_id: str) -> None:
        run = self.runs[run_id]
        del run.timers[timer_id]
        if timer_id.startswith("query_backoff:"):
            request = run.requests[RequestId(int(timer_id.split(":")[1]))]
            assert request.where == "backoff"
            request.where = "queued" if run.fits(request.bound) else "refused"
        self.give(TimerFired(run_id, timer_id))

    def finish(self, run_id: RunId) -> None:
        run = self.runs[run_id]
        was_ended = run.ended
        run.ending = True
        said = self.give(RunEnded(run_id))
        assert was_ended == (not said)
        if was_ended:
            return
        run.ended = True
        own = [e.event for e in said if isinstance(e, EmitEvent) and e.event.run_id == run_id]
        assert own[-1].kind == "run_ended"
        assert run.timers == {}
        assert {request.where for request in run.requests.values()} <= {"answered"}
        assert own[-1].data["cost_microdollars_spent"] == run.spent(D.COST)

    def give(self, given: Input) -> list[Effect]:
        self.tape.append((given, self.now_ns))
        effects = self.scheduler.handle(given, self.now_ns)
        for effect in effects:
            self.check(effect)
        self.said.append(repr(effects))
        return effects

    def check(self, effect: Effect) -> None:
        match effect:
            case SendQuery(run_id, number, attempt):
                self.check_send(effect)
            case CancelQuery(run_id, number, attempt):
                self.flying.remove((run_id, number, attempt))
                self.cancelled.append((run_id, number, attempt))
                request = self.runs[run_id].requests[number]
                self.runs[run_id].late[number, attempt] = request.bound
                request.where = "cancelled"
            case Respond(run_id, number):
                request = self.runs[run_id].requests[number]
                assert request.where != "answered", "a second terminal response"
                assert request.where != "flying", "answered while its permit and reservation are out"
                request.where = "answered"
            case SetTimer(run_id, timer_id, at_ns):
                run = self.runs[run_id]
                assert timer_id not in run.timers
                assert at_ns >= self.now_ns
                run.timers[timer_id] = at_ns
                if timer_id.startswith("query_backoff:"):
                    request = run.requests[RequestId(int(timer_id.split(":")[1]))]
                    assert request.where == "failing"
                    request.where = "backoff"
            case ClearTimer(run_id, timer_id):
                del self.runs[run_id].timers[timer_id]
            case EmitEvent(event):
                run = self.runs[event.run_id]
                assert not run.ended, "an event after run_ended"
                assert event.seq == run.seq
                run.seq += 1
                self.bytes.append(msgspec.json.encode(event))
            case EndRun(run_id):
                run = self.runs[run_id]
                assert not run.ending, "a second EndRun"
                run.ending = True

    def check_send(self, effect: SendQuery) -> None:
        run, request = self.runs[effect.run_id], self.runs[effect.run_id].requests[effect.request_id]
        assert request.where == "queued"
        assert not run.ended
        assert not run.ending
        request.where = "flying"
        request.attempts += 1
        assert effect.attempt == request.attempts
        assert effect.timeout_ms >= 1
        assert effect.output_tokens_max == request.bound[D.OUTPUT_TOKENS]
        self.flying.append((effect.run_id, effect.request_id, effect.attempt))
        assert len(self.flying) <= self.permits_max
        assert sum(run_id == effect.run_id for run_id, _, _ in self.flying) <= run.permits_max

    @invariant()
    def the_books_agree(self) -> None:
        assert self.scheduler.permits_held == len(self.flying)
        for run_id, run in self.runs.items():
            if run.ended:
                continue
            for dimension, line in self.scheduler.budget_view(run_id).items():
                assert (line.spent, line.reserved) == (run.spent(dimension), run.reserved(dimension))
                if line.reserved:
                    assert dimension in QUERY_DIMENSIONS

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """A request that waits does so for a permit that is out, a timer that is set; never for nothing."""
        for run_id, run in self.runs.items():
            own = sum(flying == run_id for flying, _, _ in self.flying)
            busy = len(self.flying) == self.permits_max or own == run.permits_max
            for number, request in run.requests.items():
                if request.where == "queued":
                    assert busy
                if request.where in ("queued", "flying", "backoff"):
                    assert f"query_deadline:{number}" in run.timers
                if request.where == "backoff":
                    assert f"query_backoff:{number}" in run.timers

    def teardown(self) -> None:
        # Every provider falls silent: deadlines alone must answer every request.
        for _ in range(10_000):
            due = [(at, r, t) for r, run in self.runs.items() for t, at in run.timers.items()]
            if not due:
                break
            at_ns, run_id, timer_id = min(due)
            self.now_ns = max(self.now_ns, at_ns)
            self.fire(run_id, timer_id)
        for run in self.runs.values():
            assert {request.where for request in run.requests.values()} <= {"answered"}
        for run_id in self.runs:
            self.finish(run_id)
        assert self.scheduler.open_runs == ()
        assert self.scheduler.permits_held == 0
        self.replay()

    def replay(self) -> None:
        again = Scheduler(permit_limits(self.permits_max))
        said = [again.handle(given, now_ns) for given, now_ns in self.tape]
        assert [repr(effects) for effects in said] == self.said
        events = [e.event for effects in said for e in effects if isinstance(e, EmitEvent)]
        assert [msgspec.json.encode(event) for event in events] == self.bytes


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)
