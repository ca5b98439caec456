"""One pool of permits over all runs."""

from __future__ import annotations

import pytest

from rlm_wasm.core.permits import Permits
from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId, RunId
from tests.support.core_facts import permit_limits

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
