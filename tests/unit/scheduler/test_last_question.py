"""What is kept of a budget, and the one question that may use it."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.effects import CancelQuery, EndRun, SendQuery
from rlm_wasm.scheduler.inputs import IterationStarted, QueryReceived, RunCancelled, RunEnded
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import Usage
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied
from tests.support.core_facts import RUN, budget, child, query, run_limits, started
from tests.support.scheduler_driver import Driver, answered, events, failed, fired, of, responses, sent

BUDGET_ENDS = StopReason.budget("calls", 10)


def begun(percent: int = 10, permits_max: int = 9, **over: Any) -> Driver:
    driver = Driver(permits_max=permits_max)
    limits = run_limits(reserve_percent=percent, permits_max=permits_max)
    driver.give(started(budget=budget(**{"calls_max": 10} | over), run=limits))
    return driver


def last(number: int, prompt: str = "hello", **over: Any) -> QueryReceived:
    return query(number, prompt=prompt, origin="last", **{"ending": BUDGET_ENDS} | over)


@pytest.mark.threat("T-020")
def test_sub_queries_and_turns_cannot_spend_what_the_last_question_needs() -> None:
    driver = begun()
    for number in range(1, 10):
        driver.give(query(number, origin="guest"), answered(number))
    for origin in ("guest", "root"):
        (refused,) = responses(driver.give(query(20 + len(origin), origin=origin))).values()
        assert isinstance(refused, Denied)
        assert isinstance(refused.error, BudgetExceeded)
        assert (refused.error.available, refused.error.limit, refused.error.kept) == (0, 10, 1)
        assert "1 kept for the last answer: run.reserve_percent" in refused.error.message
    assert sent(driver.give(last(99))) == [(RUN, 99, 1)]
    assert responses(driver.give(answered(99))) == {99: Completed("yes", None)}


def test_a_child_can_spend_no_more_of_the_reserve_than_its_parent() -> None:
    driver = begun()
    driver.give(child(1))
    assert driver.scheduler.budget_view(RUN, RequestId(1))[Dimension.CALLS].available == 9
    assert driver.scheduler.budget_view(RUN)[Dimension.CALLS].available == 9


@pytest.mark.parametrize("kept", ["calls_max", "requests_max", "output_tokens_max", "cost_microdollars_max"])
def test_each_of_calls_requests_tokens_and_money_is_kept(kept: str) -> None:
    driver = begun(50, **{"calls_max": 100, kept: 2_000 if "cost" in kept else 300 if "out" in kept else 4})
    number = 0
    while not any(isinstance(r, Denied) for r in responses(driver.said).values()):
        number += 1
        driver.give(query(number, origin="guest"), answered(number))
        assert number < 400
    assert responses(driver.give(last(500), answered(500, usage=Usage(3, 4)))) == {
        500: Completed("yes", Usage(3, 4))
    }


def test_it_ends_a_run_that_nothing_has_ended_and_says_why() -> None:
    driver = begun()
    driver.give(query(1), child(2))
    effects = driver.give(last(9, ending=StopReason.iterations(7, "run.turns_max")))
    assert not of(EndRun, effects), "whoever asks knows"
    (stopping,) = driver.events("run_stopping")
    assert stopping.data == {"cause": "iterations_exhausted", "reason": "iterations_exhausted"}
    assert {number: response.status for number, response in responses(effects).items()} == {
        1: "cancelled", 2: "cancelled",
    }  # fmt: skip
    assert isinstance(responses(driver.give(query(10)))[RequestId(10)], Cancelled)
    assert [event.data["origin"] for event in driver.events("query_received")] == ["guest", "last"]


def test_it_is_asked_once() -> None:
    driver = begun()
    driver.give(last(1), answered(1))
    assert isinstance(responses(driver.give(last(2)))[RequestId(2)], Cancelled)


@pytest.mark.parametrize(
    "stop",
    [RunCancelled(RUN, StopReason.cancelled("by hand")), fired("run_deadline")],
)
def test_a_run_that_somebody_or_its_deadline_ended_is_asked_nothing(stop: Any) -> None:
    driver = begun()
    driver.give(stop)
    effects = driver.give(last(1))
    assert isinstance(responses(effects)[RequestId(1)], Cancelled)
    assert not sent(effects)


def test_whoever_wants_an_end_does_not_wait_for_it() -> None:
    driver = begun()
    driver.give(last(1))
    effects = driver.give(RunCancelled(RUN, StopReason.cancelled("by hand")))
    assert responses(effects) == {1: Cancelled("by hand")}
    assert of(CancelQuery, effects) == [CancelQuery(RUN, RequestId(1), 1)]
    driver = begun(iterations_max=1)
    driver.give(IterationStarted(RUN), IterationStarted(RUN))
    driver.give(RunCancelled(RUN, StopReason.cancelled("by hand")))
    assert not sent(driver.give(last(1)))


def test_it_takes_no_longer_than_the_run_has_left() -> None:
    driver = begun()
    (effect,) = of(SendQuery, driver.give(last(1), after_ms=59_400))
    assert effect.timeout_ms == 600
    driver.give(fired("query_deadline:1"), after_ms=600)
    assert events(driver.give(RunEnded(RUN, BUDGET_ENDS)))[0].data["outcome"] == "budget: calls"


def test_its_answer_is_as_long_as_what_is_left_covers() -> None:
    driver = begun(10, output_tokens_max=300, cost_microdollars_max=10_000)
    driver.give(query(1), answered(1, usage=Usage(1, 270)))
    (effect,) = of(SendQuery, driver.give(last(2)))
    assert effect.output_tokens_max == 30
    driver = begun(10, cost_microdollars_max=1_000)
    driver.give(query(1), answered(1, usage=Usage(1, 224)))  # 898 of 1,000
    (effect,) = of(SendQuery, driver.give(last(2)))
    assert effect.output_tokens_max == (1_000 - 898 - 15 * 2) // 4


def test_what_the_reserve_does_not_cover_is_refused_and_the_run_ends_as_before() -> None:
    driver = begun(input_tokens_max=100)
    (refused,) = responses(driver.give(last(1, prompt="x" * 200))).values()
    assert isinstance(refused, Denied)
    driver = begun(observation_bytes_max=10)
    (refused,) = responses(driver.give(last(1, observed_bytes=11))).values()
    assert isinstance(refused, Denied)
    assert driver.scheduler.budget_view(RUN)[Dimension.OBSERVATION_BYTES].spent == 0


def test_a_failed_attempt_is_tried_again_with_what_was_kept() -> None:
    driver = begun(20)
    for number in range(1, 9):
        driver.give(query(number), answered(number))
    driver.give(last(20), failed(20, sent=True))
    assert sent(driver.give(fired("query_backoff:20"), after_ms=20)) == [(RUN, 20, 2)]


@pytest.mark.parametrize("over", [{"parent": RequestId(1)}, {"ending": None}])
def test_only_the_root_is_asked_last_and_for_a_reason(over: dict[str, Any]) -> None:
    driver = begun()
    driver.give(child(1))
    with pytest.raises(InternalError):
        driver.give(last(2, **over))
