"""The permit pool against a model made of plain lists that are searched from the start."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.permits import Permits, Slot
from tests.support.core_facts import MS, permit_limits

# Run, its tenant, the tenant's weight.
RUNS = [("a", "t", 1), ("b", "t", 1), ("c", "u", 3), ("d", "v", 2)]
MODELS = ["p:x", "p:y", "q:z"]
UNIT = 1 << 20
runs = st.sampled_from([RunId(name) for name, _, _ in RUNS])
models = st.sampled_from(MODELS)
picks = st.integers(0, 1_000)


@dataclass
class Waiter:
    run: RunId
    number: RequestId
    model: str
    asked: int

    @property
    def slot(self) -> Slot:
        return self.run, self.number

    @property
    def provider(self) -> str:
        return self.model[0]


@dataclass
class Claim:
    """What somebody had so far, by weight, and since when their present turn is due."""

    weight: int
    virtual_time: int = 0
    since: int = 0
    floor: int = 0  # where those of its own that begin to wait start from


@dataclass
class Rate:
    """A provider's permits, kept as a fraction of thousandths like the policy's prose says."""

    most: int
    milli: int
    credited_ns: int = 0
    cut_ns: int = -1
    sent: dict[Slot, int] = field(default_factory=dict)


class PermitsMachine(RuleBasedStateMachine):
    """Who holds, who waits, who is next; every cap; providers that ask for less."""

    @initialize(
        total=st.integers(1, 6),
        provider=st.integers(1, 6),
        model=st.integers(1, 4),
        least=st.integers(1, 2),
        of_tenant=st.integers(1, 6),
        shares=st.tuples(*[st.integers(1, 3)] * len(RUNS)),
    )
    def begin(
        self, total: int, provider: int, model: int, least: int, of_tenant: int, shares: tuple[int, ...]
    ) -> None:
        self.of_tenant = of_tenant
        self.total, self.provider_max, self.model_max, self.least = total, provider, model, least
        self.limits = permit_limits(
            total,
            tenant_max=of_tenant,
            provider_max=provider,
            model_max=model,
            adaptive_min=least,
            recover_ms=100,
        )
        self.permits = Permits(self.limits)
        self.shares = {RunId(name): share for (name, _, _), share in zip(RUNS, shares, strict=True)}
        self.tenant = {RunId(name): tenant for name, tenant, _ in RUNS}
        self.tenants = {tenant: Claim(weight) for _, tenant, weight in RUNS}
        self.claims = {run: Claim(1) for run in self.shares}
        self.floor = 0
        self.rates = {name: Rate(provider, provider * 1_000) for name in "pq"}
        for run in self.shares:
            self.join(run)
        self.now_ns = 0
        self.number = 0
        self.step = 0
        self.queue: list[Waiter] = []  # in the order of asking, all together
        self.held: list[Waiter] = []

    def join(self, run: RunId) -> None:
        tenant = self.tenant[run]
        self.permits.add_run(
            run,
            permits_max=self.shares[run],
            waiting_max=1_000,
            tenant=tenant,
            weight=self.tenants[tenant].weight,
        )

    # The model

    def permits_of(self, provider: str) -> int:
        rate = self.rates[provider]
        while rate.milli < rate.most * 1_000 and self.now_ns - rate.credited_ns >= 100 * MS:
            rate.credited_ns += 100 * MS
            rate.milli = min(rate.most * 1_000, rate.milli + 1_000)
        return rate.milli // 1_000

    def may_have(self, waiter: Waiter) -> bool:
        same = [other for other in self.held if other.run == waiter.run]
        provider = [other for other in self.held if other.provider == waiter.provider]
        model = [other for other in self.held if other.model == waiter.model]
        own = [other for other in self.held if self.tenant[other.run] == self.tenant[waiter.run]]
        return (
            len(self.held) < self.total
            and len(own) < self.of_tenant
            and len(same) < self.shares[waiter.run]
            and len(provider) < self.permits_of(waiter.provider)
            and len(model) < self.model_max
        )

    def rank(self, waiter: Waiter) -> tuple[int, ...]:
        tenant, run = self.tenants[self.tenant[waiter.run]], self.claims[waiter.run]
        return tenant.virtual_time, tenant.since, run.virtual_time, run.since, waiter.asked

    def expected_grants(self) -> list[Slot]:
        granted = []
        while eligible := [waiter for waiter in self.queue if self.may_have(waiter)]:
            waiter = min(eligible, key=self.rank)
            self.queue.remove(waiter)
            self.held.append(waiter)
            granted.append(waiter.slot)
            self.rates[waiter.provider].sent[waiter.slot] = self.now_ns
            self.step += 1
            tenant, run = self.tenants[self.tenant[waiter.run]], self.claims[waiter.run]
            self.floor, tenant.floor = tenant.virtual_time, run.virtual_time
            for claim in (tenant, run):
                claim.virtual_time += UNIT // claim.weight
                claim.since = self.step
        return granted

    # What happens

    @rule(run=runs, model=models, count=st.integers(1, 3))
    def request(self, run: RunId, model: str, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.step += 1
            tenant, claim = self.tenants[self.tenant[run]], self.claims[run]
            if all(self.tenant[other.run] != self.tenant[run] for other in self.queue):
                tenant.virtual_time, tenant.since = max(tenant.virtual_time, self.floor), self.step
            if all(other.run != run for other in self.queue):
                claim.virtual_time, claim.since = max(claim.virtual_time, tenant.floor), self.step
            self.permits.request(run, RequestId(self.number), model)
            self.queue.append(Waiter(run, RequestId(self.number), model, self.step))

    @rule(ms=st.integers(0, 150))
    def let_time_pass(self, ms: int) -> None:
        self.now_ns += ms * MS

    @rule()
    def hand_out(self) -> None:
        assert self.permits.hand_out(self.now_ns) == self.expected_grants()

    @precondition(lambda self: self.held)
    @rule(pick=picks, how=st.sampled_from(["answered", "refused", "given up"]))
    def release(self, pick: int, how: str) -> None:
        waiter = self.held.pop(pick % len(self.held))
        self.permits.release(*waiter.slot)
        rate = self.rates[waiter.provider]
        sent_ns = rate.sent.pop(waiter.slot)
        if how == "answered":
            self.permits.answered(waiter.model)
            if rate.milli < rate.most * 1_000:
                rate.milli = min(rate.most * 1_000, rate.milli + 1_000_000 // rate.milli)
        elif how == "refused":
            permits = self.permits.refused(waiter.model, sent_ns, self.now_ns)
            assert (permits is not None) == (sent_ns > rate.cut_ns)
            if permits is not None:
                self.permits_of(waiter.provider)
                rate.milli = max(min(self.least, rate.most) * 1_000, rate.milli // 2)
                rate.cut_ns = rate.credited_ns = self.now_ns
                assert permits == rate.milli // 1_000

    @precondition(lambda self: self.queue)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        waiter = self.queue.pop(pick % len(self.queue))
        self.permits.withdraw(*waiter.slot)

    @rule(run=runs)
    def leave_and_come_back(self, run: RunId) -> None:
        for waiter in [waiter for waiter in self.queue if waiter.run == run]:
            self.queue.remove(waiter)
            self.permits.withdraw(*waiter.slot)
        for waiter in [waiter for waiter in self.held if waiter.run == run]:
            self.held.remove(waiter)
            self.permits.release(*waiter.slot)
        self.permits.remove_run(run)
        self.claims[run] = Claim(1)
        if not any(t == self.tenant[run] for r, t in self.tenant.items() if r != run):
            tenant = self.tenants[self.tenant[run]]
            self.tenants[self.tenant[run]] = Claim(tenant.weight)
        self.join(run)

    @invariant()
    def agrees_with_the_lists(self) -> None:
        assert self.permits.held == len(self.held) <= self.total
        assert self.permits.waiting == len(self.queue)
        for run, share in self.shares.items():
            assert self.permits.held_by(run) == sum(w.run == run for w in self.held) <= share
            assert self.permits.waiting_of(run) == sum(w.run == run for w in self.queue)
        for model in MODELS:
            assert sum(w.model == model for w in self.held) <= self.model_max
        for provider in "pq":
            assert sum(w.provider == provider for w in self.held) <= self.provider_max

    def teardown(self) -> None:
        """Nobody waits for ever: giving permits back serves every waiter."""
        for _ in range(len(self.queue) + len(self.held) + 1):
            assert self.permits.hand_out(self.now_ns) == self.expected_grants()
            if self.held:
                self.permits.release(*self.held.pop().slot)
        assert not self.queue
        assert self.permits.waiting == 0


TestPermits = PermitsMachine.TestCase
TestPermits.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
