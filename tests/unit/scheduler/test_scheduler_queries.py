"""The way of one query, and of several beside each other."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import BudgetExceeded, InternalError, ProviderError, QueryError
from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.effects import CancelQuery, ClearTimer, Respond, SendQuery, SetTimer
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import Message, Usage
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, TimedOut
from rlm_wasm.scheduler.scheduler import RunEnded
from tests.support.core_facts import (
    OTHER,
    RUN,
    boundary,
    budget,
    child,
    query,
    query_limits,
    run_limits,
    started,
)
from tests.support.scheduler_driver import Driver, answered, events, failed, fired, of, responses, sent

HELLO_BOUND = 15  # "hello", "user" and 6 of overhead


def amounts(driver: Driver, dimension: Dimension) -> tuple[int, int]:
    view = driver.scheduler.budget_view(RUN)[dimension]
    return view.spent, view.reserved


def test_a_query_is_reserved_before_it_is_sent() -> None:
    driver = Driver()
    driver.give(started())
    effects = driver.give(query(1))
    assert [e.kind for e in events(effects)] == ["query_received", "query_sent"]
    assert of(SendQuery, effects) == [
        SendQuery(RUN, RequestId(1), 1, "m", (Message("user", "hello"),), 100, 1_000, 10_000)
    ]
    assert amounts(driver, Dimension.CALLS) == (0, 1)
    assert amounts(driver, Dimension.INPUT_TOKENS) == (0, HELLO_BOUND)
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (0, 100)
    assert amounts(driver, Dimension.COST) == (0, HELLO_BOUND * 2 + 100 * 4)
    assert amounts(driver, Dimension.REQUESTS) == (1, 0)


def test_an_answer_is_settled_and_delivered() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    effects = driver.give(answered(1, usage=Usage(3, 4)))
    assert responses(effects) == {1: Completed("yes", Usage(3, 4))}
    assert of(ClearTimer, effects) == [ClearTimer(RUN, "query_deadline:1")]
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (4, 0)
    assert amounts(driver, Dimension.COST) == (3 * 2 + 4 * 4, 0)
    assert driver.scheduler.permits_held == 0


@pytest.mark.parametrize("usage", [None, Usage(-5, 1), Usage(0, 10**30)])
def test_a_provider_that_reports_no_usage_or_nonsense_costs_the_whole_reservation(
    usage: Usage | None,
) -> None:
    driver = Driver()
    driver.give(started(), query(1))
    effects = driver.give(answered(1, usage=usage))
    assert responses(effects) == {1: Completed("yes", None)}
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (100, 0)
    (event,) = driver.events("query_answered")
    assert event.data["assumed"] is True


def test_a_second_answer_to_the_same_attempt_changes_nothing() -> None:
    driver = Driver()
    driver.give(started(), query(1), answered(1, usage=Usage(3, 4)))
    before = driver.scheduler.budget_view(RUN)
    assert driver.give(answered(1, usage=Usage(1, 1)), failed(1)) == []
    assert driver.scheduler.budget_view(RUN) == before


def test_a_query_beyond_the_budget_is_denied_without_a_call() -> None:
    driver = Driver()
    driver.give(started(budget=budget(output_tokens_max=150)), query(1))
    effects = driver.give(query(2))
    (response,) = responses(effects).values()
    assert isinstance(response, Denied)
    assert isinstance(response.error, BudgetExceeded)
    assert (response.error.dimension, response.error.available) == ("output_tokens", 50)
    assert of(Respond, effects) == effects  # no event, no timer, nothing sent


def test_a_denied_query_counts_as_a_request() -> None:
    driver = Driver()
    driver.give(started(budget=budget(requests_max=3)))
    for number in range(3):
        driver.give(query(number, model="unknown"))
    effects = driver.give(query(3))
    (response,) = responses(effects).values()
    assert isinstance(response, Denied)
    assert isinstance(response.error, BudgetExceeded)
    assert response.error.dimension == "requests"


def test_a_model_without_a_price_is_denied_and_not_quoted() -> None:
    driver = Driver()
    driver.give(started())
    (response,) = responses(driver.give(query(1, model="evil\x1b[2J"))).values()
    assert isinstance(response, Denied)
    assert type(response.error) is QueryError
    assert "evil" not in response.error.message


def test_a_query_may_ask_for_fewer_output_tokens_but_not_for_more() -> None:
    driver = Driver()
    driver.give(started())
    (fewer,) = of(SendQuery, driver.give(query(1, output_tokens_max=5)))
    (more,) = of(SendQuery, driver.give(query(2, output_tokens_max=5_000)))
    assert (fewer.output_tokens_max, more.output_tokens_max) == (5, 100)


def test_no_more_queries_are_in_flight_than_there_are_permits() -> None:
    driver = Driver(permits_max=2)
    driver.give(started())
    assert sent(driver.give(*(query(n) for n in range(5)))) == [(RUN, 0, 1), (RUN, 1, 1)]
    assert sent(driver.give(answered(1))) == [(RUN, 2, 1)]
    assert driver.scheduler.permits_held == 2


def test_two_runs_share_the_permits_in_turn() -> None:
    driver = Driver(permits_max=1)
    driver.give(started(), started(OTHER))
    driver.give(*(query(n) for n in range(3)), *(query(n, OTHER) for n in range(3)))
    order = []
    for _ in range(6):
        (run_id, number, attempt) = sent(driver.said)[-1]
        order.append(run_id)
        driver.give(answered(number, attempt, run_id))
    assert order == [RUN, OTHER, RUN, OTHER, RUN, OTHER]


def test_a_run_keeps_within_its_own_share_of_the_permits() -> None:
    driver = Driver(permits_max=4)
    driver.give(started(run=run_limits(permits_max=1)))
    assert sent(driver.give(query(1), query(2))) == [(RUN, 1, 1)]


def test_a_failed_attempt_is_retried_after_its_backoff() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    effects = driver.give(failed(1))
    assert not responses(effects)
    assert 5 <= driver.timer_due_ms("query_backoff:1") <= 10
    assert sent(driver.give(fired("query_backoff:1"), after_ms=10)) == [(RUN, 1, 2)]
    assert responses(driver.give(answered(1, 2))) == {1: Completed("yes", None)}


def test_no_permit_is_held_during_a_backoff() -> None:
    driver = Driver(permits_max=1)
    driver.give(started(), query(1), query(2))
    assert sent(driver.give(failed(1))) == [(RUN, 2, 1)]
    assert sent(driver.give(fired("query_backoff:1"))) == []  # it queues again like any other
    assert sent(driver.give(answered(2))) == [(RUN, 1, 2)]


def test_a_result_of_an_earlier_attempt_is_not_taken_for_the_present_one() -> None:
    driver = Driver()
    driver.give(started(), query(1), failed(1), fired("query_backoff:1"))
    assert driver.give(answered(1, attempt=1), failed(1, attempt=1)) == []
    assert responses(driver.give(answered(1, attempt=2))) == {1: Completed("yes", None)}


def test_attempts_are_bounded() -> None:
    driver = Driver()
    driver.give(started(query=query_limits(attempts_max=2)), query(1), failed(1))
    driver.give(fired("query_backoff:1"))
    (response,) = responses(driver.give(failed(1, 2))).values()
    assert isinstance(response, Failed)
    assert isinstance(response.error, ProviderError)


def test_a_failure_that_a_retry_cannot_mend_is_final() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    (response,) = responses(driver.give(failed(1, retryable=False))).values()
    assert isinstance(response, Failed)


def test_the_provider_may_ask_for_a_longer_backoff() -> None:
    driver = Driver()
    driver.give(started(), query(1), failed(1, retry_after_ms=500))
    assert driver.timer_due_ms("query_backoff:1") == 500


def test_a_retry_that_cannot_start_before_the_deadline_is_not_waited_for() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    (response,) = responses(driver.give(failed(1, retry_after_ms=1_000))).values()
    assert isinstance(response, Failed)


def test_a_wait_beyond_the_deadline_is_told_with_the_key_of_the_deadline() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    (response,) = responses(driver.give(failed(1, retry_after_ms=3_600_000))).values()
    assert isinstance(response, Failed)
    told = (
        "the provider is down; it asks for a wait of 3600000 ms, and 1000 ms of query.timeout_ms_max are left"
    )
    assert response.error.message == told


@pytest.mark.parametrize("retryable", [True, False])
def test_a_wait_that_is_not_what_ends_the_query_is_not_told(retryable: bool) -> None:
    driver = Driver()
    driver.give(started(query=query_limits(attempts_max=1)), query(1))
    last = failed(1, retryable=retryable, retry_after_ms=3_600_000)
    (response,) = responses(driver.give(last)).values()
    assert isinstance(response, Failed)
    assert response.error.message == "the provider is down"


def test_an_attempt_that_was_sent_is_billed_and_the_retry_is_reserved_again() -> None:
    driver = Driver()
    driver.give(started(), query(1), failed(1, sent=True))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (100, 0)
    driver.give(fired("query_backoff:1"))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (100, 100)


def test_an_attempt_that_was_not_sent_costs_nothing() -> None:
    driver = Driver()
    driver.give(started(), query(1), failed(1, sent=False))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (0, 0)
    assert amounts(driver, Dimension.CALLS) == (0, 0)


def test_a_retry_that_the_budget_does_not_allow_is_denied() -> None:
    driver = Driver()
    driver.give(started(budget=budget(calls_max=1)), query(1), failed(1, sent=True))
    (response,) = responses(driver.give(fired("query_backoff:1"))).values()
    assert isinstance(response, Denied)


def test_the_deadline_covers_the_wait_for_a_permit() -> None:
    driver = Driver(permits_max=1)
    driver.give(started(), query(1), query(2))
    effects = driver.give(fired("query_deadline:2"), after_ms=1_000)
    assert responses(effects) == {2: TimedOut(1_000)}
    assert amounts(driver, Dimension.CALLS) == (0, 1)  # nothing of it was spent
    assert sent(driver.give(answered(1))) == []


def test_the_deadline_covers_the_backoff_and_every_attempt() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    driver.give(failed(1), after_ms=400)
    (again,) = of(SendQuery, driver.give(fired("query_backoff:1"), after_ms=100))
    assert again.timeout_ms == 500
    effects = driver.give(fired("query_deadline:1"), after_ms=500)
    assert responses(effects) == {1: TimedOut(1_000)}
    assert of(CancelQuery, effects) == [CancelQuery(RUN, RequestId(1), 2)]


def test_a_query_in_backoff_meets_its_deadline_too() -> None:
    driver = Driver()
    driver.give(started(), query(1), failed(1))
    effects = driver.give(fired("query_deadline:1"), after_ms=1_000)
    assert responses(effects) == {1: TimedOut(1_000)}
    assert of(ClearTimer, effects) == [ClearTimer(RUN, "query_backoff:1")]
    assert driver.give(fired("query_backoff:1")) == []


def test_a_guest_waits_no_longer_than_the_boundary_allows() -> None:
    driver = Driver()
    limits = boundary(host_wait_ms_max=300)
    driver.give(started(boundary=limits))
    driver.give(query(1, origin="guest"), query(2, origin="root"))
    assert driver.timer_due_ms("query_deadline:1") == 300
    assert driver.timer_due_ms("query_deadline:2") == 1_000


def test_a_call_cancelled_in_flight_is_spent_until_its_bill_comes() -> None:
    driver = Driver()
    driver.give(started(), query(1), fired("query_deadline:1"))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (100, 0)
    effects = driver.give(answered(1, usage=Usage(3, 4)))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (4, 0)
    assert not of(Respond, effects)  # recorded, never delivered
    (event,) = driver.events("late_result")
    assert (event.data["answered"], event.data["output_tokens"]) == (True, 4)


def test_a_late_bill_beyond_the_reservation_is_recorded_and_not_added() -> None:
    driver = Driver()
    driver.give(started(), query(1), fired("query_deadline:1"), answered(1, usage=Usage(3, 400)))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (100, 0)
    (event,) = driver.events("late_result")
    assert (event.data["reported_output_tokens"], event.data["output_tokens"]) == (400, 100)


def test_a_late_failure_that_was_never_sent_gives_everything_back() -> None:
    driver = Driver()
    driver.give(started(), query(1), fired("query_deadline:1"), failed(1, sent=False))
    assert amounts(driver, Dimension.OUTPUT_TOKENS) == (0, 0)


def test_a_late_result_counts_once() -> None:
    driver = Driver()
    driver.give(started(), query(1), fired("query_deadline:1"), answered(1, usage=Usage(3, 4)))
    assert driver.give(answered(1, usage=Usage(0, 0)), failed(1)) == []


def test_a_permit_comes_free_with_the_deadline_of_its_holder() -> None:
    driver = Driver(permits_max=1)
    driver.give(started(), query(1), query(2))
    effects = driver.give(fired("query_deadline:1"))
    order = [type(e) for e in effects if isinstance(e, CancelQuery | Respond | SendQuery)]
    assert order == [CancelQuery, Respond, SendQuery]


def test_a_number_that_is_open_cannot_be_used_again() -> None:
    driver = Driver()
    driver.give(started(), query(1))
    with pytest.raises(InternalError):
        driver.give(query(1))


def test_a_query_of_a_run_that_is_gone_still_gets_its_answer() -> None:
    driver = Driver()
    driver.give(started(), RunEnded(RUN))
    (response,) = responses(driver.give(query(1))).values()
    assert isinstance(response, Cancelled)


def test_texts_are_written_only_if_the_run_grants_them() -> None:
    secret = "the secret context"
    for texts in (False, True):
        driver = Driver()
        driver.give(started(texts=texts), query(1, prompt=secret), query(2, prompt=secret))
        driver.give(answered(1, text=secret), failed(2), failed(2))
        driver.give(query(3), failed(3, retryable=False), RunEnded(RUN))
        log = repr(events(driver.said))
        assert (secret in log) is texts
        assert ("the provider is down" in log) is texts


def test_the_events_of_a_query_carry_its_place_in_the_tree() -> None:
    driver = Driver()
    driver.give(started(), child(3), query(7, depth=1, parent=RequestId(3), group=9))
    for event in driver.events("query_received") + driver.events("query_sent"):
        assert (event.depth, event.parent) == (1, 3)
    assert driver.events("query_received")[0].data["group"] == 9


def test_timers_are_set_on_the_clock_that_came_in() -> None:
    driver = Driver()
    driver.give(started())
    (timer,) = of(SetTimer, driver.give(query(1), after_ms=250))
    assert timer.at_ns == driver.now_ns + 1_000_000_000
