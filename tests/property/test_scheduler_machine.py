"""The scheduler under random interleavings, against a world that keeps its own books.

The world plays guests of every depth, providers, clock and operator. It believes nothing that the
scheduler says without checking it against the invariants of the design: one terminal response a
request, permits never exceeded, spent and reserved as the books have them in every child's view,
children admitted or refused at once and ended with whoever asked for them, events without gaps,
nothing left at the end, nothing stuck when every provider and child falls silent, and the same
inputs giving the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlm_wasm.errors import ChildFailed, ProviderError, QueryError, WindowExceeded
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import BudgetLimits
from rlm_wasm.outcomes import StopReason
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
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    CellJudged,
    CellStarted,
    CellVerdict,
    ChildFinished,
    FuelUsed,
    FuelWanted,
    Input,
    IterationStarted,
    ObservationMade,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RequestAbandoned,
    RunCancelled,
    RunEnded,
    Surplus,
    TimerFired,
)
from rlm_wasm.scheduler.messages import CacheUse, FinishReason, Usage
from rlm_wasm.scheduler.request import Completed, Denied, Failed, TimedOut
from rlm_wasm.scheduler.routing import Routing
from rlm_wasm.scheduler.scheduler import Scheduler
from rlm_wasm.scheduler.window import ModelWindow
from tests.support.core_facts import (
    MS,
    budget,
    child,
    permit_limits,
    query,
    query_limits,
    run_limits,
    started,
)
from tests.support.scheduler_books import PRICES, Amounts, BookOfRequest, BookOfRun, D, Node, charge

Attempt = tuple[RunId, RequestId, int]
RESERVED = (D.CALLS, D.INPUT_TOKENS, D.OUTPUT_TOKENS, D.COST, D.FUEL)
# A few parts of a cell's fuel, and a few cells of a run's.
CELL_FUEL = 45_000_000
RUN_FUEL = 150_000_000
MODELS = tuple(PRICES)
picks = st.integers(0, 10_000)
models = st.sampled_from(MODELS)
finishes = st.sampled_from([None, FinishReason.STOP, FinishReason.LENGTH, FinishReason.LENGTH])
cache_uses = st.sampled_from([None, None, None, "miss", "unusable", "hit"])
# A failure without numbers, as a rule; else what an endpoint says of a query that is too long for its model.
too_long = st.none() | st.builds(
    WindowExceeded,
    st.just("too long"),
    window_tokens=st.sampled_from([None, 100, 200]),
    prompt_tokens=st.sampled_from([None, 5, 60]),
    answer_tokens_max=st.sampled_from([None, 70]),
)
usages = st.none() | st.builds(Usage, st.integers(-1, 60), st.integers(-1, 130))


@dataclass(frozen=True)
class RunFacts:
    calls: int
    tokens: int
    permits: int
    attempts: int
    events: int
    seed: int
    texts: bool
    depth: int
    fanout: int
    sessions: int
    share: int
    batch: str
    tenant: str
    weight: int
    reserve: int
    cost: int
    retry_max: int
    fallback: dict[str, tuple[str, ...]]
    small: dict[str, int]
    windows: dict[str, int]


run_facts = st.builds(
    RunFacts,
    calls=st.sampled_from([0, 3, 12, 40]),
    tokens=st.integers(200, 5_000),
    permits=st.integers(1, 3),
    attempts=st.sampled_from([1, 2, 5, 5]),
    events=st.sampled_from([2_000, 2_000, 1, 5]),
    seed=st.integers(0, 3),
    texts=st.booleans(),
    depth=st.sampled_from([0, 1, 3, 3]),
    fanout=st.integers(1, 4),
    sessions=st.sampled_from([1, 3, 6, 6]),
    share=st.sampled_from([100, 100, 60]),
    batch=st.sampled_from(["all", "part"]),
    tenant=st.sampled_from(["", "t", "u"]),
    weight=st.integers(1, 3),
    reserve=st.sampled_from([0, 20, 50]),
    cost=st.sampled_from([1_000_000, 1_000_000, 6_000]),
    retry_max=st.sampled_from([0, 150, 300]),
    fallback=st.sampled_from(
        [{}, {"m": ("p:x",)}, {"m": ("p:y", "p:x"), "p:x": ("p:y",)}, {"p:y": ("m",), "p:x": ("m", "p:y")}]
    ),
    small=st.sampled_from([{}, {"p:x": 6}, {"p:y": 2, "p:x": 9}]),
    windows=st.sampled_from([{}, {}, {"m": 140}, {"p:x": 120, "p:y": 90}]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Invariants 1 to 5, 7 and 8 of the design, over several runs and their children at once."""

    @initialize(
        permits_max=st.integers(1, 5),
        provider_max=st.integers(1, 5),
        model_max=st.integers(1, 3),
        calm=st.sampled_from([True, True, False]),
        first=run_facts,
        second=run_facts,
    )
    def begin(
        self,
        permits_max: int,
        provider_max: int,
        model_max: int,
        calm: bool,
        first: RunFacts,
        second: RunFacts,
    ) -> None:
        self.permits = permit_limits(permits_max, provider_max=provider_max, model_max=model_max)
        self.calm = calm  # in most worlds nobody ends a run by hand, so that more happens in it
        self.scheduler = Scheduler(self.permits)
        self.now_ns = 0
        self.runs: dict[RunId, BookOfRun] = {}
        self.flying: list[Attempt] = []
        self.cancelled: list[Attempt] = []  # cancelled in flight: their results may still come
        self.reported: list[Attempt] = []  # attempts whose result has come
        self.throttled: set[str] = set()  # providers that ever asked for fewer requests
        self.next: BookOfRequest | None = None  # how the request that just failed goes to another model
        self.tape: list[tuple[Input, int]] = []
        self.bytes: list[bytes] = []
        self.said: list[str] = []
        self.number = 0
        # Work is there from the start: a random choice of rules must not spend itself on idle worlds.
        for facts in (first, second):
            self.start(facts)
        for run_id in tuple(self.runs):
            for prompt, model in zip("abc", MODELS, strict=True):
                self.ask(run_id, None, prompt, None, model)
            for _ in range(2):
                self.ask_for_a_child(run_id, None, {})

    # What the world does

    @precondition(lambda self: len(self.runs) < 4)
    @rule(facts=run_facts)
    def start(self, facts: RunFacts) -> None:
        run_id = RunId(f"run_{len(self.runs)}")
        limits = budget(
            calls_max=facts.calls,
            requests_max=60,
            output_tokens_max=facts.tokens,
            iterations_max=20,
            fuel_max=RUN_FUEL,
            children_max=8,
            observation_bytes_max=60,
            cost_microdollars_max=facts.cost,
        )
        self.runs[run_id] = BookOfRun(
            {d: getattr(limits, f"{d.value}_max") for d in D},
            facts.permits,
            facts.depth,
            facts.fanout,
            facts.sessions,
            facts.share,
            batch=facts.batch,
            attempts_max=facts.attempts,
            retry_max=facts.retry_max,
            fallback=facts.fallback,
            small=facts.small,
            windows={model: ModelWindow(facts.windows.get(model)) for model in MODELS},
            kept=kept_of(limits, facts.reserve),
        )
        self.give(
            started(
                run_id,
                budget=limits,
                run=run_limits(
                    permits_max=facts.permits,
                    events_max=facts.events,
                    wall_ms_max=20_000,
                    depth_max=facts.depth,
                    fanout_max=facts.fanout,
                    sessions_max=facts.sessions,
                    child_share_percent=facts.share,
                    reserve_percent=facts.reserve,
                ),
                query=query_limits(
                    attempts_max=facts.attempts, batch=facts.batch, output_tokens_retry_max=facts.retry_max
                ),
                prices=PRICES,
                routing=Routing.of(facts.fallback, facts.small),
                windows=facts.windows,
                cell_requests_max=12,
                cell_fuel_max=CELL_FUEL,
                seed=facts.seed,
                texts=facts.texts,
                tenant=facts.tenant,
                weight=facts.weight,
            )
        )

    @rule(
        pick=picks,
        prompts=st.lists(st.text(max_size=20), min_size=2, max_size=4),
        model=models,
        by_size=st.booleans(),
    )
    def ask_a_batch(self, pick: int, prompts: list[str], model: str, by_size: bool) -> None:
        run_id, node = self.pick_node(pick)
        items = [self.query_of(run_id, node, prompt, None, model, by_size=by_size) for prompt in prompts]
        self.give_batch(run_id, node, tuple(items), lambda place: self.admit(items[place]))

    @rule(pick=picks, count=st.sampled_from([1, 3, 1_000]))
    def ask_beyond_all_room(self, pick: int, count: int) -> None:
        """What there is no room for is counted and refused together, with one effect."""
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        book, live = run.node(node), run.live(node)
        room = self.scheduler.room(run_id, node, count)
        left = run.available(D.REQUESTS, node)
        fitting = max(0, min(count, left, run.cell_requests_max - book.cell_requests)) if live else 0
        assert room == (fitting if run.batch == "part" or fitting == count else 0)
        if room:
            return
        if live:
            run.pay({D.REQUESTS: min(count, left)}, node)
            book.cell_requests += min(count, left)
        first = RequestId(self.number + 1)
        self.number += count
        said = self.give(BatchReceived(run_id, (), Surplus(first, count, book.depth, node)))
        (refused,) = [e for e in said if isinstance(e, RefuseSurplus)]
        assert (refused.run_id, refused.first) == (run_id, first)
        assert sum(times for _, times in refused.refusals) == count
        assert 1 <= len(refused.refusals) <= 2
        assert all(isinstance(r, Denied) if live else r.status == "cancelled" for r, _ in refused.refusals)
        assert len(said) <= 2 + 10 * len(self.flying), "no work for each of them"

    @rule(pick=picks, count=st.integers(2, 4), caps=st.dictionaries(st.sampled_from(D), st.integers(0, 30)))
    def ask_for_children(self, pick: int, count: int, caps: Amounts) -> None:
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        items = [self.child_of(run_id, node, caps) for _ in range(count)]
        self.give_batch(
            run_id, node, tuple(items), lambda place: run.admit_child(items[place].request_id, node, caps)
        )

    @rule(
        pick=picks,
        prompt=st.text(max_size=20),
        output=st.none() | st.integers(1, 200),
        model=models,
        by_size=st.booleans(),
    )
    def ask_a_model(self, pick: int, prompt: str, output: int | None, model: str, by_size: bool) -> None:
        self.ask(*self.pick_node(pick), prompt, output, model, by_size=by_size)

    @rule(
        pick=picks,
        caps=st.dictionaries(st.sampled_from(D), st.integers(0, 40), max_size=2),
    )
    def ask_a_child(self, pick: int, caps: Amounts) -> None:
        self.ask_for_a_child(*self.pick_node(pick), caps)

    def ask(
        self, run_id: RunId, node: Node, prompt: str, output: int | None, model: str, *, by_size: bool = False
    ) -> None:
        run = self.runs[run_id]
        given = self.query_of(run_id, node, prompt, output, model, by_size=by_size)
        live = run.live(node)
        accepted = live and self.admit(given)
        if not live:
            run.requests[given.request_id] = refused_book(node)
        self.check_admission(run_id, given.request_id, self.give(given), live, accepted)

    def ask_for_a_child(self, run_id: RunId, node: Node, caps: Amounts) -> None:
        run = self.runs[run_id]
        given = self.child_of(run_id, node, caps)
        live = run.live(node)
        accepted = live and run.admit_child(given.request_id, node, caps)
        if not live:
            run.requests[given.request_id] = refused_book(node)
        said = self.give(given)
        self.check_admission(run_id, given.request_id, said, live, accepted)
        assert any(isinstance(e, StartChild) for e in said) == accepted, "never queued"

    def give_batch(self, run_id: RunId, node: Node, items: tuple, admit: Callable[[int], bool]) -> None:
        run = self.runs[run_id]
        live = run.live(node)
        numbers = [item.request_id for item in items]
        accepted: list[RequestId] = []
        refused = not live
        for place, number in enumerate(numbers):
            if live and not (refused and run.batch == "all"):
                if admit(place):
                    accepted.append(number)
                else:
                    refused = True
                continue
            if live:
                run.count(node)  # refused with the others, and counted with them
            run.requests[number] = refused_book(node)
        if refused and run.batch == "all":
            run.take_back(accepted)
            accepted = []
        said = self.give(BatchReceived(run_id, items))
        for number in numbers:
            self.check_admission(run_id, number, said, live, number in accepted)

    def check_admission(
        self, run_id: RunId, number: RequestId, said: list[Effect], live: bool, accepted: bool
    ) -> None:
        own = [e for e in said if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)]
        if accepted:
            assert not own
            return
        (refusal,) = own
        if live:
            assert isinstance(refusal.response, Denied)
            assert isinstance(refusal.response.error, QueryError)
        else:
            assert refusal.response.status == "cancelled"

    @precondition(lambda self: self.flying)
    @rule(pick=picks, usage=usages, finish=finishes, cache=cache_uses)
    def answer(
        self, pick: int, usage: Usage | None, finish: FinishReason | None, cache: CacheUse | None
    ) -> None:
        attempt = self.flying.pop(pick % len(self.flying))
        self.reported.append(attempt)
        run_id, number, _ = attempt
        run, request = self.runs[run_id], self.runs[run_id].requests[number]
        request.where = "answering"
        bill = self.bill(usage, request)
        if cache != "hit":
            run.pay(bill or request.own, request.node)
        if cache != "hit" and bill is not None:
            run.windows[request.model].counted(request.size, bill[D.INPUT_TOKENS])
        longer = finish is FinishReason.LENGTH and run.lengthen(number)
        said = self.give(ProviderAnswered(*attempt, "text", usage, finish, cache))
        own = [
            e.response
            for e in said
            if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)
        ]
        if longer and self.overdrawn_at(run, request.node):
            assert [response.status for response in own] == ["cancelled"]
        elif longer:
            assert own == []
        else:
            (response,) = own
            assert isinstance(response, Completed)
            assert (response.finish, response.usage) == (finish, usage if bill and cache != "hit" else None)
        self.check_overdraft(run_id, request.node)

    @staticmethod
    def overdrawn_at(run: BookOfRun, node: Node) -> bool:
        return any(run.overdrawn(each) for each in run.chain(node))

    @precondition(lambda self: self.flying)
    @rule(
        pick=picks,
        retryable=st.sampled_from([True, True, True, False]),
        was_sent=st.booleans(),
        after=st.sampled_from([None, None, -5, 100, 1_200]),
        throttled=st.sampled_from([False, False, True]),
        usage=usages,
        window=too_long,
    )
    def fail(
        self,
        pick: int,
        retryable: bool,
        was_sent: bool,
        after: int | None,
        throttled: bool,
        usage: Usage | None,
        window: WindowExceeded | None,
    ) -> None:
        attempt = self.flying.pop(pick % len(self.flying))
        self.reported.append(attempt)
        run_id, number, _ = attempt
        run, request = self.runs[run_id], self.runs[run_id].requests[number]
        request.where = "failing"
        if was_sent:
            run.pay(self.bill(usage, request) or request.own, request.node)
        if throttled:
            self.throttled.add(request.model[0])
        stands, model = request.cut, request.model
        gives_up = stands or run.gives_up(request, retryable, window)
        self.next = None if stands else run.next_models(request, last=number == run.last)
        error = window or ProviderError("down")
        said = self.give(ProviderFailed(*attempt, error, retryable, was_sent, after, throttled, usage))
        if request.where == "failing":
            self.reroute(request)  # it waits for a permit of that model
        rerouted = request.model != model
        assert rerouted or self.next is None or not (gives_up or throttled)
        # Where no wait fits before the deadline, it is as if there were no attempt left.
        assert rerouted or request.where in (("answered",) if gives_up else ("backoff", "answered"))
        self.next = None
        own = [
            e.response
            for e in said
            if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)
        ]
        assert all(isinstance(response, Completed if stands else Failed) for response in own)

    def reroute(self, request: BookOfRequest) -> None:
        """Write down that the next model is asked: nobody said that it would be."""
        assert self.next is not None, "neither answered, nor asked for again"
        self.next.where = "queued"
        vars(request).update(vars(self.next))

    @precondition(lambda self: self.cancelled)
    @rule(pick=picks, usage=usages, cache=cache_uses)
    def answer_late(self, pick: int, usage: Usage | None, cache: CacheUse | None) -> None:
        attempt = self.cancelled.pop(pick % len(self.cancelled))
        self.reported.append(attempt)
        run_id, number, count = attempt
        run = self.runs[run_id]
        bound = run.late.get((number, count))
        if bound is not None and not run.ended:
            bill = {} if cache == "hit" else self.bill(usage, run.requests[number]) or bound
            run.late[number, count] = {d: min(bill.get(d, 0), bound[d]) for d in bound}
        said = self.give(ProviderAnswered(*attempt, "late", usage, None, cache))
        assert not [e for e in said if isinstance(e, Respond)]

    @precondition(lambda self: self.reported)
    @rule(pick=picks, answers=st.booleans())
    def report_again(self, pick: int, answers: bool) -> None:
        """A second result of an attempt, even while the next attempt is in flight, is nothing."""
        flying = {(run_id, number) for run_id, number, _ in self.flying}
        choices = [attempt for attempt in self.reported if attempt[:2] in flying] or self.reported
        attempt = choices[pick % len(choices)]
        if answers:
            given: Input = ProviderAnswered(*attempt, "again", Usage(1, 1))
        else:
            given = ProviderFailed(*attempt, ProviderError("again"), True, True)
        # Time may have given a throttled provider a permit back: that is all that may come of it.
        assert all(isinstance(e, SendQuery | EmitEvent) for e in self.give(given))

    @precondition(lambda self: any(run.children for run in self.runs.values()))
    @rule(pick=picks, answers=st.sampled_from([True, True, False]))
    def finish_a_child(self, pick: int, answers: bool) -> None:
        """Any child may finish at any time, also one that is gone, or was answered before."""
        run_id, number = self.pick_child(pick)
        run = self.runs[run_id]
        owes = run.requests[number].where == "running" and not run.ended
        if not run.ended and not run.children[number].gone:
            self.lose_cell(run, number)
            run.children[number].gone = run.children[number].stopping = True
        error = None if answers else ChildFailed("out of turns", partial="a draft")
        said = self.give(ChildFinished(run_id, number, "done" if answers else None, error))
        own = [e for e in said if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)]
        assert len(own) == owes
        for each in own:
            assert isinstance(each.response, Completed if answers else Failed)

    @precondition(lambda self: not self.calm and any(run.requests for run in self.runs.values()))
    @rule(pick=picks)
    def abandon(self, pick: int) -> None:
        run_id, run = self.pick_run(pick)
        numbers = list(run.requests)
        if not numbers:
            return
        number = numbers[pick % len(numbers)]
        was_open = run.requests[number].where in ("queued", "flying", "backoff", "running")
        said = self.give(RequestAbandoned(run_id, number))
        own = [e for e in said if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)]
        assert [e.response.status for e in own] == ["cancelled"] * was_open

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
            said = self.give(TimerFired(run_id, timer_id))
            assert all(isinstance(e, SendQuery | EmitEvent) for e in said)

    @rule(pick=picks, fuel=st.sampled_from([0, 1, 2_000_000, 10_000_000, 10_000_001, 60_000_000, None]))
    def burn(self, pick: int, fuel: int | None) -> None:
        """A cell ends, or one that nobody knew of: what it used is counted, within its grant or beyond it."""
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        if not run.ended:
            run.settle_cell(node, fuel)
        self.give(FuelUsed(run_id, fuel, node))
        if not run.ended:
            self.check_overdraft(run_id, None if run.node(node).gone else node)

    @rule(pick=picks)
    def next_turn(self, pick: int) -> None:
        run_id, node = self.pick_node(pick)
        fits = self.runs[run_id].fits({D.ITERATIONS: 1, D.FUEL: 1}, node)
        self.check_use(run_id, node, fits, {D.ITERATIONS: 1}, IterationStarted(run_id, node))

    @rule(pick=picks, size=st.sampled_from([0, 1, 15, 30]))
    def observe(self, pick: int, size: int) -> None:
        run_id, node = self.pick_node(pick)
        fits = self.runs[run_id].fits({D.OBSERVATION_BYTES: size}, node)
        given = ObservationMade(run_id, size, node)
        self.check_use(run_id, node, fits, {D.OBSERVATION_BYTES: size}, given)

    def check_use(self, run_id: RunId, node: Node, fits: bool, amounts: Amounts, given: Input) -> None:
        """What fits is counted; what does not ends that conversation, with the root's the run."""
        run = self.runs[run_id]
        live = run.live(node)
        if live and fits:
            run.pay(amounts, node)
        said = self.give(given)
        ended: list[Node] = [e.request_id for e in said if isinstance(e, StopChild) and e.request_id == node]
        ended += [None for e in said if isinstance(e, EndRun)]
        assert ended == ([node] if live and not fits else [])

    @rule(pick=picks)
    def next_cell(self, pick: int) -> None:
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        book = run.node(node)
        if not run.ended and not book.gone:
            self.lose_cell(run, node)
        live = run.live(node)
        if live:
            book.cell_requests = book.cell_children = 0
        left = run.available(D.FUEL, node)
        said = self.give(CellStarted(run_id, 1, 9, node))
        given = self.given_fuel(said, run_id, node)
        if run.ended or book.gone:
            assert given is None
            return
        assert given is not None
        self.check_part(given, 0, left if live else 0)
        if given:
            book.fuel = given
        ended: list[Node] = [e.request_id for e in said if isinstance(e, StopChild) and e.request_id == node]
        ended += [None for e in said if isinstance(e, EndRun)]
        assert ended == ([node] if live and not given else [])

    @rule(pick=picks)
    def want_fuel(self, pick: int) -> None:
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        book = run.node(node)
        left = run.available(D.FUEL, node)
        given = self.given_fuel(self.give(FuelWanted(run_id, node)), run_id, node)
        if run.ended or book.gone:
            assert given is None
            return
        assert given is not None
        self.check_part(given, book.fuel or 0, left if run.live(node) and book.fuel is not None else 0)
        if given:
            book.fuel = (book.fuel or 0) + given

    @staticmethod
    def given_fuel(said: list[Effect], run_id: RunId, node: Node) -> int | None:
        given = [e for e in said if isinstance(e, GiveFuel)]
        assert [(e.run_id, e.parent) for e in given] in ([], [(run_id, node)])
        return given[0].fuel if given else None

    @staticmethod
    def check_part(fuel: int, had: int, left: int) -> None:
        """A cell gets something where something is left, and never all of what others need."""
        most = min(left, CELL_FUEL - had)
        assert fuel <= most
        assert (fuel > 0) == (most > 0)
        assert fuel == most or fuel <= max(10_000_000, left // 8, CELL_FUEL // 16)

    @staticmethod
    def lose_cell(run: BookOfRun, node: Node) -> None:
        """A cell of which nothing was heard has used all that it was given."""
        if run.node(node).fuel is not None:
            run.settle_cell(node, None)

    @rule(pick=picks, prompt=st.text(max_size=20), observed=st.sampled_from([0, 0, 20]))
    def ask_last(self, pick: int, prompt: str, observed: int) -> None:
        """A run that a limit ends asks once more; one that a limit did not end yet is ended by that."""
        run_id, run = self.pick_run(pick)
        if self.calm and not run.ending:
            return  # else few worlds would get far
        self.number += 1
        number = RequestId(self.number)
        over, may_ask = run.ended, not run.no_last
        accepted = not over and run.admit_last(number, size_of(prompt), observed)
        if over:
            run.requests[number] = refused_book(None)
        reason = StopReason.iterations(9, "run.turns_max")
        given = query(self.number, run_id, prompt, origin="last", ending=reason, observed_bytes=observed)
        said = self.give(given)
        assert not [e for e in said if isinstance(e, EndRun)]
        self.check_admission(run_id, number, said, may_ask and not over, accepted)

    @rule(
        pick=picks, verdict=st.sampled_from(["passed", "passed", "refused", "stopped", "failed", "timed_out"])
    )
    def judge(self, pick: int, verdict: CellVerdict) -> None:
        """A hook sees a cell of any conversation: what ends the run ends all of it, and nothing else does."""
        run_id, node = self.pick_node(pick)
        run = self.runs[run_id]
        if self.calm and verdict not in ("passed", "refused"):
            return
        live, ends = run.live(node), verdict not in ("passed", "refused")
        if live and ends:
            run.no_last = True
        said = self.give(CellJudged(run_id, 1, 9, verdict, "why", "", node))
        told = [e for e in said if isinstance(e, EmitEvent) and e.event.kind == "cell_judged"]
        assert len([e for e in said if isinstance(e, EndRun)]) == (live and ends)
        assert len(told) <= live  # a log may be full

    @precondition(lambda self: not self.calm)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        run_id, run = self.pick_run(pick)
        run.no_last = True
        self.give(RunCancelled(run_id, StopReason.cancelled("by hand")))
        assert run.ended or run.ending

    @precondition(lambda self: not self.calm)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        self.finish(self.pick_run(pick)[0])

    # How the world keeps its books

    def query_of(
        self, run_id: RunId, node: Node, prompt: str, output: int | None, model: str, *, by_size: bool
    ) -> QueryReceived:
        self.number += 1
        depth = self.runs[run_id].node(node).depth
        more = {"depth": depth, "parent": node, "model": model, "by_size": by_size}
        return query(self.number, run_id, prompt, output_tokens_max=output, **more)

    def admit(self, given: QueryReceived) -> bool:
        run, (message,) = self.runs[given.run_id], given.prompt_messages
        size = size_of(message.content)
        asked = run.candidates(given.model, size - len("user"), by_size=given.by_size)
        return run.admit_query(given.request_id, given.parent, asked, size, given.output_tokens_max)

    def child_of(self, run_id: RunId, node: Node, caps: Amounts):
        self.number += 1
        return child(self.number, run_id, depth=self.runs[run_id].node(node).depth, parent=node, caps=caps)

    def pick_run(self, pick: int) -> tuple[RunId, BookOfRun]:
        run_id = list(self.runs)[pick % len(self.runs)]
        return run_id, self.runs[run_id]

    def pick_node(self, pick: int) -> tuple[RunId, Node]:
        """Pick a conversation: the root's, or a child's, those that are over included."""
        run_id, run = self.pick_run(pick)
        nodes: list[Node] = [None, *run.children]
        return run_id, nodes[pick // len(self.runs) % len(nodes)]

    def pick_child(self, pick: int) -> tuple[RunId, RequestId]:
        children = [(run_id, number) for run_id, run in self.runs.items() for number in run.children]
        return children[pick % len(children)]

    @staticmethod
    def bill(usage: Usage | None, request: BookOfRequest) -> Amounts | None:
        """Return what a provider's numbers come to, or None if they are none."""
        if usage is None or usage.input_tokens < 0 or usage.output_tokens < 0:
            return None
        return charge(usage.input_tokens, usage.output_tokens, request.model)

    def check_overdraft(self, run_id: RunId, node: Node) -> None:
        """Whoever has used more than it may has been told to end."""
        run = self.runs[run_id]
        for each in run.chain(node):
            if run.overdrawn(each):
                assert run.ending if each is None else (run.children[each].stopping or run.ending)

    def fire(self, run_id: RunId, timer_id: str) -> None:
        run = self.runs[run_id]
        del run.timers[timer_id]
        kind, _, name = timer_id.partition(":")
        number = RequestId(int(name or 0))
        if kind == "query_backoff":
            request = run.requests[number]
            assert request.where == "backoff"
            request.where = "queued" if run.fits(request.bound, request.node) else "refused"
        said = self.give(TimerFired(run_id, timer_id))
        if kind in ("child_deadline", "query_deadline"):
            (own,) = [
                e for e in said if isinstance(e, Respond) and (e.run_id, e.request_id) == (run_id, number)
            ]
            stands = kind == "query_deadline" and run.requests[number].cut
            assert isinstance(own.response, Completed if stands else TimedOut)

    def finish(self, run_id: RunId) -> None:
        run = self.runs[run_id]
        was_ended = run.ended
        run.ending = True
        if not was_ended:
            for node in (None, *(number for number, book in run.children.items() if not book.gone)):
                self.lose_cell(run, node)
        said = self.give(RunEnded(run_id))
        if was_ended:
            assert all(isinstance(e, SendQuery | EmitEvent) for e in said)
            return
        run.ended = True
        own = [e.event for e in said if isinstance(e, EmitEvent) and e.event.run_id == run_id]
        assert own[-1].kind == "run_ended"
        assert run.timers == {}
        assert {request.where for request in run.requests.values()} <= {"answered"}
        assert own[-1].data["cost_microdollars_spent"] == run.spent(D.COST)
        assert own[-1].data["fuel_spent"] == run.spent(D.FUEL)

    def give(self, given: Input) -> list[Effect]:
        self.tape.append((given, self.now_ns))
        effects = self.scheduler.handle(given, self.now_ns)
        for effect in effects:
            self.check(effect)
        self.said.append(repr(effects))
        return effects

    def check(self, effect: Effect) -> None:
        match effect:
            case SendQuery():
                self.check_send(effect)
            case CancelQuery(run_id, number, attempt):
                self.flying.remove((run_id, number, attempt))
                self.cancelled.append((run_id, number, attempt))
                request = self.runs[run_id].requests[number]
                self.runs[run_id].late[number, attempt] = request.bound
                request.where = "cancelled"
            case StartChild(run_id, number, depth, _, _, parent):
                run = self.runs[run_id]
                assert run.requests[number].where == "running"
                assert (depth, parent) == (run.children[number].depth, run.children[number].parent)
            case StopChild(run_id, number):
                book = self.runs[run_id].children[number]
                assert not book.told, "a second StopChild"
                book.told = book.stopping = True
            case Respond(run_id, number):
                self.check_response(run_id, number)
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
            case EndRun(run_id, stop):
                run = self.runs[run_id]
                assert not run.ending, "a second EndRun"
                run.ending = True
                run.no_last = run.no_last or not stop.leaves_a_question

    def check_response(self, run_id: RunId, number: RequestId) -> None:
        run = self.runs[run_id]
        request = run.requests[number]
        assert request.where != "answered", "a second terminal response"
        assert request.where != "flying", "answered while its permit and reservation are out"
        if request.where == "running":
            run.children[number].stopping = True
            # Whoever stands below was answered before.
            assert not [n for n in self.open_requests(run) if run.requests[n].node == number]
        request.where = "answered"

    def check_send(self, effect: SendQuery) -> None:
        run, request = self.runs[effect.run_id], self.runs[effect.run_id].requests[effect.request_id]
        if request.where == "failing":
            self.reroute(request)
        assert request.where == "queued"
        assert not run.ended
        assert not run.ending or effect.request_id == run.last
        request.where = "flying"
        request.attempts += 1
        request.tries += 1
        assert effect.attempt == request.attempts
        assert effect.timeout_ms >= 1
        assert effect.output_tokens_max == request.bound[D.OUTPUT_TOKENS]
        assert effect.model == request.model
        self.flying.append((effect.run_id, effect.request_id, effect.attempt))
        assert not self.over_a_cap(effect.run_id, request.model, 1)

    def over_a_cap(self, run_id: RunId, model: str, by: int) -> bool:
        """Whether more than the caps less `by` plus one are in flight that count with such a query."""
        used = [(run, self.runs[run].requests[number].model) for run, number, _ in self.flying]
        caps = [
            (len(used), self.permits.total_max),
            (sum(run == run_id for run, _ in used), self.runs[run_id].permits_max),
            (sum(other == model for _, other in used), self.permits.model_max),
            (sum(other[0] == model[0] for _, other in used), self.permits.provider_max),
        ]
        return any(count >= most + by for count, most in caps)

    @staticmethod
    def open_requests(run: BookOfRun) -> list[RequestId]:
        waiting = ("queued", "flying", "backoff", "running")
        return [number for number, request in run.requests.items() if request.where in waiting]

    @invariant()
    def the_books_agree(self) -> None:
        assert self.scheduler.permits_held == len(self.flying)
        for run_id, run in self.runs.items():
            if run.ended:
                continue
            for dimension, line in self.scheduler.budget_view(run_id).items():
                assert (line.spent, line.reserved) == (run.spent(dimension), run.reserved(dimension))
                if line.reserved:
                    assert dimension in RESERVED
            for number, book in run.children.items():
                if not book.gone:
                    view = self.scheduler.budget_view(run_id, number)
                    for dimension, line in view.items():
                        assert line.available == run.available(dimension, number)

    @invariant()
    def what_is_decided_before_it_happens_is_never_overspent(self) -> None:
        """Only a bill, or fuel of a cell that nobody knew of, can come to more than there was."""
        ours = (D.REQUESTS, D.ITERATIONS, D.CHILDREN, D.OBSERVATION_BYTES)
        for run in self.runs.values():
            nodes = [None, *(number for number, book in run.children.items() if not book.gone)]
            for node in [] if run.ended else nodes:
                for dimension in ours:
                    limit = run.limit(dimension, node)
                    used = run.spent(dimension, node) + run.reserved(dimension, node)
                    assert limit is None or used <= limit
                if run.cell_fuel_only(node):
                    limit = run.limit(D.FUEL, node)
                    used = run.spent(D.FUEL, node) + run.reserved(D.FUEL, node)
                    assert limit is None or used <= limit

    @invariant()
    def nothing_stands_below_what_has_ended(self) -> None:
        for run in self.runs.values():
            for number in self.open_requests(run):
                assert not run.ended
                if number == run.last:
                    continue
                assert not run.ending
                for node in run.chain(run.requests[number].node):
                    assert not run.node(node).stopping, "it outlived whoever asked for it"

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """A request that waits does so for a permit that is out, a timer that is set; never for nothing."""
        for run_id, run in self.runs.items():
            for number in self.open_requests(run):
                request = run.requests[number]
                if request.where == "queued":
                    slowed = request.model[0] in self.throttled and any(
                        self.runs[r].requests[n].model[0] == request.model[0] for r, n, _ in self.flying
                    )
                    assert slowed or self.over_a_cap(run_id, request.model, 0)
                kind = "child" if request.where == "running" else "query"
                assert f"{kind}_deadline:{number}" in run.timers
                if request.where == "backoff":
                    assert f"query_backoff:{number}" in run.timers

    @invariant()
    def sessions_are_bounded(self) -> None:
        for run in self.runs.values():
            assert sum(not book.gone for book in run.children.values()) < max(1, run.sessions_max)
            assert all(book.depth <= run.depth_max for book in run.children.values())

    def teardown(self) -> None:
        # Every provider and every child falls silent: deadlines alone must answer every request.
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
        again = Scheduler(self.permits)
        said = [again.handle(given, now_ns) for given, now_ns in self.tape]
        assert [repr(effects) for effects in said] == self.said
        events = [e.event for effects in said for e in effects if isinstance(e, EmitEvent)]
        assert [msgspec.json.encode(event) for event in events] == self.bytes


def kept_of(limits: BudgetLimits, percent: int) -> Amounts:
    """Return what is kept for the last question, as the policy's page has it."""
    if not percent:
        return {}
    shared = (D.CALLS, D.INPUT_TOKENS, D.OUTPUT_TOKENS, D.COST)
    return {D.REQUESTS: 1} | {d: ceil(getattr(limits, f"{d.value}_max") * percent / 100) for d in shared}


def refused_book(node: Node) -> BookOfRequest:
    """Return the book of a request that was never taken in."""
    return BookOfRequest({}, node, where="refused")


def size_of(prompt: str) -> int:
    return len("user") + len(prompt.encode("utf-8", "surrogatepass"))


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=120, stateful_step_count=70, deadline=None)
