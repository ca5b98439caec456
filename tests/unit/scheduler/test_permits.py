"""One pool of permits over all runs."""

from __future__ import annotations

import sys

import pytest

from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.permits import Permits
from tests.support.core_facts import MS, permit_limits

A, B, C = RunId("a"), RunId("b"), RunId("c")


def pool(limit: int, *runs: RunId, permits_max: int = 100, waiting_max: int = 100) -> Permits:
    permits = Permits(permit_limits(limit))
    for run in runs:
        permits.add_run(run, permits_max=permits_max, waiting_max=waiting_max)
    return permits


def ask(permits: Permits, run: RunId, *numbers: int) -> None:
    for number in numbers:
        permits.request(run, RequestId(number), "m")


def test_a_free_permit_is_granted_at_once() -> None:
    permits = pool(1, A)
    ask(permits, A, 1)
    assert permits.hand_out(0) == [(A, 1)]
    assert permits.held == permits.held_by(A) == 1


def test_within_a_run_the_first_to_ask_is_the_first_to_get() -> None:
    permits = pool(1, A)
    ask(permits, A, 3, 1, 2)
    order = []
    while granted := permits.hand_out(0):
        order += granted
        permits.release(*granted[0])
    assert order == [(A, 3), (A, 1), (A, 2)]


def test_runs_take_turns_however_much_one_of_them_wants() -> None:
    permits = pool(1, A, B, C)
    ask(permits, A, 1, 2, 3, 4)
    ask(permits, B, 1, 2)
    ask(permits, C, 1)
    order = []
    while granted := permits.hand_out(0):
        order += [run for run, _ in granted]
        permits.release(*granted[0])
    assert order == [A, B, C, A, B, A, A]


def test_a_run_never_holds_more_than_its_share_and_others_get_the_rest() -> None:
    permits = pool(3, A, B, permits_max=1)
    ask(permits, A, 1, 2, 3)
    ask(permits, B, 1)
    assert permits.hand_out(0) == [(A, 1), (B, 1)]
    assert permits.hand_out(0) == []
    permits.release(A, RequestId(1))
    assert permits.hand_out(0) == [(A, 2)]


@pytest.mark.threat("T-115")
def test_a_tenant_never_holds_more_than_its_share_and_another_gets_the_rest_at_once() -> None:
    permits = Permits(permit_limits(4, tenant_max=3))
    for run, tenant in ((A, "greedy"), (B, "greedy"), (C, "modest")):
        permits.add_run(run, permits_max=100, waiting_max=100, tenant=tenant)
    ask(permits, A, *range(1, 9))
    ask(permits, B, *range(1, 9))
    granted = permits.hand_out(0)
    assert len(granted) == 3
    assert permits.hand_out(0) == []
    ask(permits, C, 1, 2)
    assert permits.hand_out(0) == [(C, 1)]
    for _ in range(20):  # however often it gives some back and wants more
        permits.release(*granted.pop(0))
        granted += permits.hand_out(0)
        assert permits.held_by(A) + permits.held_by(B) + permits.held_by(C) == permits.held <= 4
        assert permits.held_by(A) + permits.held_by(B) <= 3
        if not permits.waiting:
            break
    assert permits.waiting == 0


def test_one_that_withdrew_is_not_granted() -> None:
    permits = pool(1, A)
    ask(permits, A, 1, 2, 3)
    assert permits.hand_out(0) == [(A, 1)]
    permits.withdraw(A, RequestId(2))
    permits.release(A, RequestId(1))
    assert permits.hand_out(0) == [(A, 3)]


def test_the_same_request_number_in_two_runs_is_two_requests() -> None:
    permits = pool(2, A, B)
    ask(permits, A, 1)
    ask(permits, B, 1)
    assert set(permits.hand_out(0)) == {(A, 1), (B, 1)}


def test_the_queue_is_bounded() -> None:
    permits = pool(1, A, waiting_max=2)
    ask(permits, A, 1, 2)
    with pytest.raises(InternalError, match="more than 2"):
        ask(permits, A, 3)
    assert permits.waiting_of(A) == 2


def test_a_second_permit_for_one_request_is_our_bug() -> None:
    permits = pool(1, A)
    ask(permits, A, 1)
    with pytest.raises(InternalError):
        ask(permits, A, 1)
    permits.hand_out(0)
    with pytest.raises(InternalError):
        ask(permits, A, 1)


def test_a_permit_that_is_not_held_cannot_be_given_back() -> None:
    permits = pool(1, A)
    ask(permits, A, 1)
    with pytest.raises(InternalError):
        permits.release(A, RequestId(1))
    permits.hand_out(0)
    with pytest.raises(InternalError):
        permits.withdraw(A, RequestId(1))


def test_a_run_that_leaves_with_a_permit_is_our_bug() -> None:
    permits = pool(1, A, B)
    ask(permits, A, 1)
    permits.hand_out(0)
    ask(permits, B, 1)
    for run in (A, B):
        with pytest.raises(InternalError):
            permits.remove_run(run)


def test_a_run_that_left_takes_no_part() -> None:
    permits = pool(1, A)
    permits.remove_run(A)
    with pytest.raises(InternalError):
        ask(permits, A, 1)
    assert permits.held_by(A) == permits.waiting_of(A) == 0


@pytest.mark.parametrize("limit", [0, -1])
def test_a_pool_without_permits_cannot_be_made(limit: int) -> None:
    with pytest.raises(InternalError):
        Permits(permit_limits(limit))


def calls_of_a_grant(runs: int, waiting: int, models: int = 1) -> float:
    """Return how many function calls a grant takes, with so many requests waiting: no clock is asked."""
    permits = Permits(permit_limits(10, provider_max=10, model_max=10))
    for number in range(runs):
        permits.add_run(RunId(f"r{number}"), permits_max=10, waiting_max=waiting, tenant=f"t{number % 7}")
    for number in range(waiting):
        permits.request(RunId(f"r{number % runs}"), RequestId(number), f"p:{number % models}")
    calls = grants = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    held = permits.hand_out(0)
    sys.setprofile(count)
    try:
        while held:
            grants += 1
            permits.release(*held.pop(0))
            held += permits.hand_out(0)
    finally:
        sys.setprofile(None)
    assert permits.waiting == 0
    return calls / grants


@pytest.mark.parametrize(("runs", "models"), [(1, 1), (50, 1), (50, 3)])
def test_a_grant_costs_the_same_however_many_wait(runs: int, models: int) -> None:
    few, many = calls_of_a_grant(runs, 500, models), calls_of_a_grant(runs, 5_000, models)
    assert many < 1.5 * few


def test_a_run_at_its_share_does_not_make_the_others_search_past_it() -> None:
    """5,000 of one run wait behind its share; another run's requests are found at once."""
    permits = pool(10, A, permits_max=1, waiting_max=5_000)
    permits.add_run(B, permits_max=10, waiting_max=10)
    ask(permits, A, *range(5_000))
    ask(permits, B, *range(3))
    assert permits.hand_out(0) == [(A, 0), (B, 0), (B, 1), (B, 2)]


def test_tenants_get_permits_by_their_weight() -> None:
    permits = Permits(permit_limits(1))
    for run, tenant, weight in ((A, "small", 1), (B, "large", 3), (C, "large", 3)):
        permits.add_run(run, permits_max=1, waiting_max=100, tenant=tenant, weight=weight)
        ask(permits, run, *range(40))
    order = []
    for _ in range(40):
        (granted,) = permits.hand_out(0)
        order.append(granted[0])
        permits.release(*granted)
    assert (order.count(A), order.count(B), order.count(C)) == (10, 15, 15)


def test_a_model_at_its_cap_holds_up_no_other() -> None:
    permits = Permits(permit_limits(10, provider_max=3, model_max=1))
    permits.add_run(A, permits_max=10, waiting_max=100)
    for number, model in enumerate(["p:x", "p:x", "p:y", "p:z", "p:w", "q:x"]):
        permits.request(A, RequestId(number), model)
    assert permits.hand_out(0) == [(A, 0), (A, 2), (A, 3), (A, 5)]


def test_a_provider_that_asks_for_less_gets_less_until_it_recovers() -> None:
    permits = Permits(permit_limits(8, provider_max=8, model_max=8, recover_ms=1_000))
    permits.add_run(A, permits_max=8, waiting_max=100)
    for number in range(30):
        permits.request(A, RequestId(number), "p:x")
    assert len(permits.hand_out(5)) == 8
    assert permits.refused("p:x", sent_ns=5, now_ns=10) == 4
    assert permits.refused("p:x", sent_ns=5, now_ns=11) is None  # the same overload
    for number in range(5):
        permits.release(A, RequestId(number))
    assert len(permits.hand_out(12)) == 1
    assert len(permits.hand_out(10 + 1_000 * MS)) == 1
    assert permits.provider_permits("p", 10 + 9_000 * MS) == 8
    assert permits.refused("p:x", sent_ns=20, now_ns=10 + 9_000 * MS) == 4
    for _ in range(5):
        permits.answered("p:x")
    assert permits.provider_permits("p", 10 + 9_000 * MS) == 5
