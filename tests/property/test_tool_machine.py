"""Calls of tools in any order of events, against books of their own: one response each, every charge once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlm_wasm.errors import LimitExceeded, ToolArgumentError, ToolError
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.scheduler import (
    BatchReceived,
    CallTool,
    CancelTool,
    Effect,
    Input,
    RequestAbandoned,
    Respond,
    RunCancelled,
    RunEnded,
    Scheduler,
    TimerFired,
    ToolCalled,
    ToolFinished,
    ToolTerms,
)
from tests.support.core_facts import MS, RUN, budget, permit_limits, query_limits, started

PRICES = {"free": 0, "cheap": 3, "dear": 40}
MOST = {"free": None, "cheap": 6, "dear": 3}
TERMS = {name: ToolTerms(PRICES[name], MOST[name], 100) for name in PRICES}
picks = st.integers(0, 10_000)
names = st.sampled_from([*PRICES, "nobody's"])


@dataclass
class Books:
    """What should be so of one run, by an account that knows nothing of the scheduler's."""

    cost_max: int
    requests_max: int
    together: bool
    cost: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.open: dict[int, str] = {}
        self.called: Counter[str] = Counter()

    def held(self) -> int:
        return sum(PRICES[name] for name in self.open.values())

    def takes(self, name: str) -> bool:
        """Count a request, and say whether it is one that is to be made."""
        if self.requests >= self.requests_max:
            return False
        self.requests += 1
        if name not in PRICES or (MOST[name] or 1_000) <= self.called[name]:
            return False
        return self.cost + self.held() + PRICES[name] <= self.cost_max


class ToolMachine(RuleBasedStateMachine):
    @initialize(cost=st.sampled_from([0, 50, 200]), requests=st.sampled_from([4, 40]), together=st.booleans())
    def begin(self, cost: int, requests: int, together: bool) -> None:
        self.scheduler = Scheduler(permit_limits())
        self.books = Books(cost, requests, together)
        self.now = self.number = 0
        self.answered: Counter[int] = Counter()
        self.asked: set[int] = set()
        self.stopping = self.over = False
        limits = budget(cost_microdollars_max=cost, requests_max=requests)
        query = query_limits(batch="all" if together else "part")
        self.give(started(budget=limits, tools=TERMS, query=query))

    def give(self, given: Input) -> list[Effect]:
        self.now += MS
        effects = self.scheduler.handle(given, self.now)
        for effect in effects:
            if isinstance(effect, Respond):
                self.answered[effect.request_id] += 1
        return effects

    def call(self, name: str) -> ToolCalled:
        self.number += 1
        self.asked.add(self.number)
        return ToolCalled(RUN, RequestId(self.number), 0, name, "{}", None, None, 1_000)

    @precondition(lambda self: not self.over)
    @rule(name=names)
    def ask(self, name: str) -> None:
        given = self.call(name)
        made = not self.stopping and self.books.takes(name)
        effects = self.give(given)
        assert any(isinstance(each, CallTool) for each in effects) == made
        if made:
            self.books.open[given.request_id] = name
            self.books.called[name] += 1

    @precondition(lambda self: not self.over)
    @rule(wanted=st.lists(names, min_size=1, max_size=4))
    def ask_together(self, wanted: list[str]) -> None:
        calls = [self.call(name) for name in wanted]
        kept: list[ToolCalled] = []
        refused = False
        for given in calls if not self.stopping else ():
            # Of a batch that is one, what comes behind a refusal is only counted.
            if refused and self.books.together:
                self.books.requests = min(self.books.requests + 1, self.books.requests_max)
            elif self.books.takes(given.tool):
                kept.append(given)
                self.books.open[given.request_id] = given.tool
                self.books.called[given.tool] += 1
            else:
                refused = True
        if refused and self.books.together:
            for given in kept:
                del self.books.open[given.request_id]
                self.books.called[given.tool] -= 1
            kept = []
        effects = self.give(BatchReceived(RUN, tuple(calls)))
        made = [each.request_id for each in effects if isinstance(each, CallTool)]
        assert made == [given.request_id for given in kept]

    def pick(self, pick: int) -> int:
        numbers = sorted(self.books.open)
        return numbers[pick % len(numbers)]

    @precondition(lambda self: not self.over and self.books.open)
    @rule(
        pick=picks,
        how=st.sampled_from(
            [
                {"text": "7"},
                {"error": ToolError("no")},
                {"error": LimitExceeded("large", key="tools.result_bytes_max", size=2, limit=1)},
                {"error": ToolArgumentError("a: no"), "called": False},
            ]
        ),
    )
    def come_back(self, pick: int, how: dict[str, Any]) -> None:
        number = self.pick(pick)
        self.give(ToolFinished(RUN, RequestId(number), **how))
        name = self.books.open.pop(number)
        self.books.cost += PRICES[name] if how.get("called", True) else 0

    @precondition(lambda self: not self.over and self.books.open)
    @rule(pick=picks, late=st.booleans())
    def give_up(self, pick: int, late: bool) -> None:
        number = RequestId(self.pick(pick))
        given = TimerFired(RUN, f"tool_deadline:{number}") if late else RequestAbandoned(RUN, number)
        assert CancelTool(RUN, number) in self.give(given)
        self.books.cost += PRICES[self.books.open.pop(number)]

    @precondition(lambda self: not self.over)
    @rule(pick=picks)
    def come_back_late(self, pick: int) -> None:
        gone = sorted(self.asked - set(self.books.open))
        if gone:
            assert self.give(ToolFinished(RUN, RequestId(gone[pick % len(gone)]), "7")) == []

    @precondition(lambda self: not self.over)
    @rule(at_once=st.booleans())
    def end(self, at_once: bool) -> None:
        if not at_once and not self.stopping:
            self.give(RunCancelled(RUN, StopReason.cancelled("x")))
            self.stopping = True
        else:
            self.give(RunEnded(RUN))
            self.over = True
        self.books.cost += self.books.held()
        self.books.open.clear()

    @precondition(lambda self: self.over)
    @rule(name=names)
    def ask_too_late(self, name: str) -> None:
        self.give(self.call(name))

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "books"):
            return
        for number in self.asked:
            assert self.answered[number] == (number not in self.books.open)
        if self.over:
            assert self.scheduler.open_runs == ()
            return
        view = self.scheduler.budget_view(RUN)
        cost, requests = view[Dimension.COST], view[Dimension.REQUESTS]
        assert (cost.spent, cost.reserved) == (self.books.cost, self.books.held())
        assert requests.spent == self.books.requests
        assert cost.spent + cost.reserved <= self.books.cost_max


ToolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestToolMachine = ToolMachine.TestCase
