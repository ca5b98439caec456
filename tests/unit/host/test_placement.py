"""Placement against an independent model: never too many, never two tenants in one worker."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from rlm_wasm.errors import InternalError, Overloaded
from rlm_wasm.host.placement import Isolation, Placement
from rlm_wasm.limits import NO_TENANT_LIMITS, WorkerLimits
from tests.support.pool_facts import worker_limits

MS = 1_000_000


def placement(isolation: Isolation = "shared", share_percent: int = 100, **limits: int) -> Placement:
    return Placement(
        isolation, worker_limits(**limits), replace(NO_TENANT_LIMITS, share_percent=share_percent)
    )


def test_sessions_spread_over_all_workers_and_then_evenly():
    books = placement(workers_max=8, sessions_max=2_000)
    counted = Counter(books.place("", 0).worker for _ in range(2_000))
    assert len(counted) == 8
    assert set(counted.values()) == {250}


def test_a_worker_is_started_once_and_used_again_when_idle():
    books = placement(workers_max=8)
    first = books.place("", 0)
    assert first.fresh
    assert not books.left(first.worker, "")
    again = books.place("", 0)
    assert (again.worker, again.fresh) == (first.worker, False)


def test_a_session_of_its_own_gets_a_fresh_worker_that_ends_with_it():
    books = placement("session", workers_max=2)
    one, two = books.place("a", 0), books.place("a", 0)
    assert one.fresh
    assert two.fresh
    assert one.worker != two.worker
    with pytest.raises(Overloaded, match="all 2 workers"):
        books.place("a", 0)
    assert books.left(one.worker, "a")
    books.ended(one.worker)
    assert books.place("a", 0).worker not in (one.worker, two.worker)


@pytest.mark.threat("T-059")
def test_tenants_never_share_a_worker():
    books = placement("tenant", workers_max=3, sessions_per_worker_max=4)
    owner: dict[int, str] = {}
    for tenant in ("a", "b", "a", "c", "b", "a", "a"):
        place = books.place(tenant, 0)
        assert owner.setdefault(place.worker, tenant) == tenant


@pytest.mark.threat("T-059")
def test_an_idle_worker_of_another_tenant_makes_room_and_is_never_handed_over():
    books = placement("tenant", workers_max=1)
    first = books.place("a", 0)
    with pytest.raises(Overloaded):
        books.place("b", 0)
    books.left(first.worker, "a")
    second = books.place("b", 0)
    assert second.fresh
    assert second.instead_of == first.worker
    assert second.worker != first.worker


@pytest.mark.threat("T-064")
def test_more_sessions_than_the_policy_gives_are_refused_and_say_what_to_raise():
    books = placement(sessions_max=2)
    books.place("", 0)
    books.place("", 0)
    with pytest.raises(Overloaded) as caught:
        books.place("", 0)
    assert "workers.sessions_max" in str(caught.value.hint)


@pytest.mark.threat("T-064")
def test_full_workers_take_no_more():
    books = placement(workers_max=2, sessions_per_worker_max=3)
    for _ in range(6):
        books.place("", 0)
    with pytest.raises(Overloaded):
        books.place("", 0)


@pytest.mark.threat("T-064")
def test_memory_pressure_refuses_new_sessions_and_passes():
    books = placement(pressure_permille_max=200)
    books.pressure(201)
    with pytest.raises(Overloaded, match="short of memory"):
        books.place("", 0)
    books.pressure(200)
    books.place("", 0)


@pytest.mark.threat("T-064")
def test_workers_that_hold_too_much_together_refuse_new_sessions():
    books = placement(memory_bytes_max=1000)
    place = books.place("", 0)
    books.measured(place.worker, 1001)
    with pytest.raises(Overloaded, match="1001 bytes, 1000 allowed"):
        books.place("", 0)
    books.ended(place.worker)
    books.place("", 0)


def test_old_and_large_workers_are_retired_and_end_after_their_last_session():
    books = placement(workers_max=2, worker_age_ms_max=1000, worker_memory_bytes_max=500)
    old = books.place("", 0)
    large = books.place("", 900 * MS)
    books.measured(large.worker, 501)
    assert list(books.tick(1001 * MS)) == []
    assert books.left(old.worker, "")
    assert books.left(large.worker, "")


def test_a_worker_that_holds_twice_what_it_may_is_ended_with_its_sessions():
    books = placement(worker_memory_bytes_max=500)
    worker = books.place("", 0).worker
    books.measured(worker, 1000)
    assert list(books.too_large()) == []
    books.measured(worker, 1001)
    assert list(books.too_large()) == [worker]


def test_an_idle_worker_that_is_too_old_ends_at_once():
    books = placement(worker_age_ms_max=1000)
    place = books.place("", 0)
    assert not books.left(place.worker, "")
    assert list(books.tick(1000 * MS)) == []
    assert list(books.tick(1001 * MS)) == [place.worker]


def test_a_worker_is_retired_after_its_last_allowed_session():
    books = placement(workers_max=1, worker_sessions_total_max=2)
    worker = books.place("", 0).worker
    assert not books.left(worker, "")
    assert books.place("", 0).worker == worker
    assert books.left(worker, "")


def test_a_pool_that_closes_takes_nothing():
    books = placement()
    books.drain()
    with pytest.raises(Overloaded, match="closing"):
        books.place("", 0)


def test_a_session_leaves_once():
    books = placement()
    worker = books.place("", 0).worker
    books.left(worker, "")
    with pytest.raises(InternalError):
        books.left(worker, "")
    books.ended(worker)
    assert not books.left(worker, "")  # it went with its worker


@pytest.mark.threat("T-111")
@pytest.mark.parametrize("isolation", ["tenant", "session"])
def test_a_zygote_in_use_is_never_retired_and_the_next_tenant_is_refused(isolation: Isolation) -> None:
    books = placement(isolation, zygotes_max=2)
    first, second = books.place("a", 0), books.place("b", 0)
    assert first.instead_of_zygote is second.instead_of_zygote is None
    with pytest.raises(Overloaded, match="all 2 zygotes are in use") as caught:
        books.place("c", 0)
    assert "workers.zygotes_max" in str(caught.value.hint)
    assert books.refusals["zygotes"] == 1
    assert books.place("a", 0).fresh  # there is one for it
    books.left(second.worker, "b")
    assert books.place("c", 0).instead_of_zygote == "b"
    with pytest.raises(Overloaded):
        books.place("b", 0)


def test_the_zygote_least_used_out_goes_first_and_its_idle_workers_with_it():
    books = placement("tenant", zygotes_max=2, workers_max=2)
    first = books.place("a", 0)
    books.left(first.worker, "a")
    second = books.place("b", 0)
    books.left(second.worker, "b")
    books.left(books.place("a", 0).worker, "a")
    third = books.place("c", 0)
    assert (third.instead_of, third.instead_of_zygote) == (None, "a")
    assert books.workers == 2
    # Its books are closed: what its workers still do moves nothing.
    assert not books.left(first.worker, "a")


@pytest.mark.threat("T-115")
@pytest.mark.parametrize("isolation", ["shared", "tenant", "session"])
def test_one_tenant_gets_its_share_of_sessions_and_another_still_finds_some(isolation: Isolation) -> None:
    books = placement(isolation, 75, sessions_max=8, workers_max=8)
    taken = [books.place("a", 0) for _ in range(6)]
    with pytest.raises(Overloaded, match="this tenant has 6 sessions") as caught:
        books.place("a", 0)
    assert "tenants.share_percent" in str(caught.value.hint)
    for _ in range(2):
        books.place("b", 0)
    with pytest.raises(Overloaded, match="all 8 sessions are in use"):
        books.place("b", 0)
    assert {reason: count for reason, count in books.refusals.items() if count} == {
        "tenant_sessions": 1,
        "sessions": 1,
    }
    if books.left(taken[0].worker, "a"):
        books.ended(taken[0].worker)
    books.place("a", 0)


@pytest.mark.threat("T-115")
def test_one_tenant_cannot_keep_every_worker_with_a_session_in_each():
    books = placement("tenant", 50, workers_max=4, worker_sessions_total_max=2)
    for _ in range(2):
        worker = books.place("a", 0).worker
        books.left(books.place("a", 0).worker, "a")  # it takes none any more, and keeps one
        assert books.sessions_in(worker) == 1
    with pytest.raises(Overloaded, match="this tenant uses 2 workers"):
        books.place("a", 0)
    assert books.refusals["tenant_workers"] == 1
    assert books.place("b", 0).fresh


@pytest.mark.threat("T-115")
def test_one_tenant_that_holds_too_much_memory_makes_room_once_another_wants_some():
    books = placement("session", 50, memory_bytes_max=1000, worker_memory_bytes_max=10_000)
    small, large, other = books.place("a", 0), books.place("a", 0), books.place("b", 0)
    books.measured(small.worker, 300)
    books.measured(large.worker, 900)
    books.measured(other.worker, 100)
    with pytest.raises(Overloaded, match="this tenant's workers hold 1200 bytes, 500 allowed"):
        books.place("a", 0)
    assert books.refusals["tenant_memory"] == 1
    assert list(books.too_large()) == []  # nobody else wants any
    with pytest.raises(Overloaded, match="the workers hold 1300 bytes, 1000 allowed"):
        books.place("b", 0)
    assert list(books.too_large()) == [large.worker]
    books.ended(large.worker)
    books.place("b", 0)
    assert list(books.too_large()) == []


@pytest.mark.threat("T-111")
@pytest.mark.parametrize("isolation", ["shared", "tenant", "session"])
@pytest.mark.parametrize("seed", range(15))
def test_the_books_agree_with_a_model_over_random_histories(isolation, seed):
    draw = random.Random(seed)
    limits = worker_limits(
        workers_max=4, sessions_max=12, sessions_per_worker_max=4, worker_sessions_total_max=9,
        worker_age_ms_max=50, zygotes_max=2 + seed % 2,
    )  # fmt: skip
    model = _Model(isolation, limits, (100, 75, 34)[seed % 3])
    for now in range(400):
        model.step(draw, now * MS)


class _Model:
    """What must hold, kept in another way."""

    def __init__(self, isolation: Isolation, limits: WorkerLimits, share: int) -> None:
        # 12 sessions and 4 workers.
        self.sessions_of_one = {100: 12, 75: 9, 34: 5}[share]
        self.workers_of_one = {100: 4, 75: 3, 34: 2}[share]
        self.books = Placement(isolation, limits, replace(NO_TENANT_LIMITS, share_percent=share))
        self.isolation = isolation
        self.limits = limits
        self.sessions: list[tuple[int, str]] = []
        self.alive: set[int] = set()
        self.ever: set[int] = set()
        self.whose: dict[int, str] = {}
        self.zygotes: set[str] = set()

    def step(self, draw: random.Random, now: int) -> None:
        match draw.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                self._place(draw.choice("abc"), now)
            case 5 | 6 | 7 if self.sessions:
                worker, tenant = self.sessions.pop(draw.randrange(len(self.sessions)))
                if self.books.left(worker, tenant):
                    self._gone(worker)
            case 8 if self.alive:
                self._gone(draw.choice(sorted(self.alive)))
            case 9:
                for worker in list(self.books.tick(now)):
                    assert all(where != worker for where, _ in self.sessions)
                    self._gone(worker)
        assert self.books.sessions == len(self.sessions) <= self.limits.sessions_max
        assert self.books.workers == len(self.alive) <= self.limits.workers_max

    def _place(self, tenant: str, now: int) -> None:
        domain = "" if self.isolation == "shared" else tenant
        try:
            place = self.books.place(tenant, now)
        except Overloaded:
            full = len(self.sessions) >= self.limits.sessions_max
            in_use = {self.whose[where] for where, _ in self.sessions}
            no_zygote = domain not in self.zygotes and len(self.zygotes & in_use) == self.limits.zygotes_max
            own = [where for where, who in self.sessions if who == tenant]
            has_all = len(own) >= self.sessions_of_one
            if self.isolation != "shared":
                has_all = has_all or len(set(own)) >= self.workers_of_one
            assert full or len(self.alive) == self.limits.workers_max or no_zygote or has_all
            return
        if place.instead_of_zygote is not None:
            assert all(self.whose[where] != place.instead_of_zygote for where, _ in self.sessions)
            self.zygotes.remove(place.instead_of_zygote)
            self.alive -= {number for number in self.alive if self.whose[number] == place.instead_of_zygote}
        if place.instead_of is not None:
            assert all(where != place.instead_of for where, _ in self.sessions)
            self.alive.discard(place.instead_of)
        assert place.fresh == (place.worker not in self.alive)
        assert not place.fresh or place.worker not in self.ever
        self.whose[place.worker] = domain
        self.zygotes.add(domain)
        assert len(self.zygotes) <= self.limits.zygotes_max
        self.alive.add(place.worker)
        self.ever.add(place.worker)
        self.sessions.append((place.worker, tenant))
        own = [where for where, who in self.sessions if who == tenant]
        assert len(own) <= self.sessions_of_one
        assert self.isolation == "shared" or len(set(own)) <= self.workers_of_one
        tenants = {who for where, who in self.sessions if where == place.worker}
        held = sum(where == place.worker for where, _ in self.sessions)
        assert held <= (1 if self.isolation == "session" else self.limits.sessions_per_worker_max)
        assert self.isolation == "shared" or len(tenants) == 1

    def _gone(self, worker: int) -> None:
        self.books.ended(worker)
        self.alive.discard(worker)
        self.sessions = [(where, who) for where, who in self.sessions if where != worker]
