"""The permit pool against a model made of plain lists that are searched from the start."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlm_wasm.core.permits import Permits, Slot
from rlm_wasm.ids import RequestId, RunId

RUNS = [RunId(name) for name in "abc"]
runs = st.sampled_from(RUNS)
picks = st.integers(0, 1_000)


class PermitsMachine(RuleBasedStateMachine):
    """Who holds, who waits, who is next: FIFO within a run, the longest unserved run first."""

    @initialize(limit=st.integers(1, 4), shares=st.tuples(*[st.integers(1, 3)] * len(RUNS)))
    def begin(self, limit: int, shares: tuple[int, ...]) -> None:
        self.limit = limit
        self.shares = dict(zip(RUNS, shares, strict=True))
        self.permits = Permits(limit)
        for run, share in self.shares.items():
            self.permits.add_run(run, permits_max=share, waiting_max=1_000)
        self.number = 0
        self.step = 0
        self.queue: list[Slot] = []  # in the order of asking, all runs together
        self.held: list[Slot] = []
        self.turn_since: dict[RunId, int] = {}  # when a waiting run's turn began to be due

    def load(self, run: RunId) -> int:
        return sum(1 for owner, _ in self.held if owner == run)

    def expected_grants(self) -> list[Slot]:
        granted = []
        while len(self.held) < self.limit:
            eligible = [run for run in self.turn_since if self.load(run) < self.shares[run]]
            if not eligible:
                break
            run = min(eligible, key=self.turn_since.__getitem__)
            slot = next(slot for slot in self.queue if slot[0] == run)
            self.queue.remove(slot)
            self.held.append(slot)
            granted.append(slot)
            self.step += 1
            self.served(run)
        return granted

    def served(self, run: RunId) -> None:
        del self.turn_since[run]
        if any(owner == run for owner, _ in self.queue):
            self.turn_since[run] = self.step

    @rule(run=runs, count=st.integers(1, 3))
    def request(self, run: RunId, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.step += 1
            self.permits.request(run, RequestId(self.number))
            self.queue.append((run, RequestId(self.number)))
            self.turn_since.setdefault(run, self.step)

    @rule()
    def hand_out(self) -> None:
        granted = list(self.permits.hand_out())
        assert granted == self.expected_grants()

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        slot = self.held.pop(pick % len(self.held))
        self.permits.release(*slot)

    @precondition(lambda self: self.queue)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        slot = self.queue.pop(pick % len(self.queue))
        self.permits.withdraw(*slot)
        if all(owner != slot[0] for owner, _ in self.queue):
            del self.turn_since[slot[0]]

    @rule(run=runs)
    def leave_and_come_back(self, run: RunId) -> None:
        for slot in [slot for slot in self.queue if slot[0] == run]:
            self.queue.remove(slot)
            self.permits.withdraw(*slot)
        for slot in [slot for slot in self.held if slot[0] == run]:
            self.held.remove(slot)
            self.permits.release(*slot)
        self.turn_since.pop(run, None)
        self.permits.remove_run(run)
        self.permits.add_run(run, permits_max=self.shares[run], waiting_max=1_000)

    @invariant()
    def agrees_with_the_lists(self) -> None:
        assert self.permits.held == len(self.held) <= self.limit
        for run in RUNS:
            assert self.permits.held_by(run) == self.load(run) <= self.shares[run]
            assert self.permits.waiting_of(run) == sum(1 for owner, _ in self.queue if owner == run)

    def teardown(self) -> None:
        """Nobody waits for ever: giving permits back serves every waiter."""
        waiting = set(self.queue)
        served: set[Slot] = set()
        for _ in range(len(self.queue) + len(self.held) + 1):
            served.update(self.permits.hand_out())
            served_now = self.expected_grants()
            served.update(served_now)
            if self.held:
                self.permits.release(*self.held.pop())
        assert waiting <= served
        assert self.permits.held == len(self.held)


TestPermits = PermitsMachine.TestCase
TestPermits.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
