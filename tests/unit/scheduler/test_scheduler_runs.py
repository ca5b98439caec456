"""How runs begin, stop and end."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import InternalError
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.effects import CancelQuery, ClearTimer, EndRun
from rlm_wasm.scheduler.inputs import FuelUsed, Input, IterationStarted, RunCancelled, RunEnded
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import Usage
from rlm_wasm.scheduler.request import Cancelled, Denied
from tests.support.core_facts import MS, OTHER, RUN, budget, query, run_limits, started
from tests.support.scheduler_driver import Driver, answered, events, failed, fired, of, responses, sent


def busy() -> Driver:
    """Return a run with a request in flight, one queued and one in backoff, beside a run that waits."""
    driver = Driver(permits_max=1)
    driver.give(started(), started(OTHER), query(1), failed(1), query(2), query(3), query(1, OTHER))
    assert driver.scheduler.permits_held == 1
    return driver


STOPS: list[tuple[Input, str]] = [
    (RunCancelled(RUN, StopReason.cancelled("by hand")), "by hand"),
    (fired("run_deadline"), "deadline: 60000 ms"),
    (FuelUsed(RUN, 1_001), "overdraft: fuel"),
]


@pytest.mark.parametrize(("stop", "reason"), STOPS)
def test_a_run_that_must_end_answers_everything_at_once(stop: Input, reason: str) -> None:
    driver = busy()
    effects = driver.give(stop)
    cancelled = Cancelled(reason)
    assert responses(effects) == {1: cancelled, 2: cancelled, 3: cancelled}
    assert [e.request_id for e in of(CancelQuery, effects)] == [2]
    assert [str(each.stop) for each in of(EndRun, effects)] == [reason]
    assert driver.scheduler.budget_view(RUN)[Dimension.CALLS].reserved == 0


@pytest.mark.parametrize(("stop", "reason"), STOPS)
def test_its_permit_goes_to_another_run_and_never_to_one_of_its_own(stop: Input, reason: str) -> None:
    driver = busy()
    assert sent(driver.give(stop)) == [(OTHER, 1, 1)]


@pytest.mark.parametrize(("stop", "reason"), STOPS)
def test_run_ended_is_the_last_event_and_leaves_nothing(stop: Input, reason: str) -> None:
    driver = busy()
    driver.give(stop)
    effects = driver.give(RunEnded(RUN, StopReason.failed()))
    assert [e.kind for e in events(effects)] == ["run_ended"]
    data = events(effects)[0].data
    assert (data["outcome"], data["stopped"]) == ("failed", reason)
    assert driver.scheduler.open_runs == (OTHER,)
    late: list[Input] = [answered(2), failed(2), fired("query_backoff:1"), FuelUsed(RUN, 5), RunEnded(RUN)]
    late += [IterationStarted(RUN), RunCancelled(RUN, StopReason.cancelled("again"))]
    assert driver.give(*late) == []


def test_a_run_that_ends_unasked_answers_its_open_requests_itself() -> None:
    driver = busy()
    effects = driver.give(RunEnded(RUN))
    assert set(responses(effects)) == {1, 2, 3}
    assert not of(EndRun, effects)
    assert [e.kind for e in events(effects) if e.run_id == RUN][-1] == "run_ended"
    assert {e.timer_id for e in of(ClearTimer, effects)} == {
        "run_deadline",
        "query_backoff:1",
        "query_deadline:1",
        "query_deadline:2",
        "query_deadline:3",
    }


def test_the_end_is_asked_for_once() -> None:
    driver = busy()
    driver.give(RunCancelled(RUN, StopReason.cancelled("first")))
    effects = driver.give(
        RunCancelled(RUN, StopReason.cancelled("second")), fired("run_deadline"), FuelUsed(RUN, 10**6)
    )
    assert not of(EndRun, effects)


def test_a_run_that_stops_takes_no_new_query_but_answers_it() -> None:
    driver = busy()
    driver.give(RunCancelled(RUN, StopReason.cancelled("by hand")))
    effects = driver.give(query(9))
    assert responses(effects) == {9: Cancelled("by hand")}
    assert not events(effects)


def test_a_late_bill_still_counts_between_the_stop_and_the_end() -> None:
    driver = busy()
    driver.give(RunCancelled(RUN, StopReason.cancelled("by hand")), answered(2, usage=Usage(1, 2)))
    driver.give(RunEnded(RUN))
    (end,) = driver.events("run_ended")
    assert (end.data["output_tokens_spent"], end.data["output_tokens_unconfirmed"]) == (2, 0)


def test_what_no_bill_confirmed_is_in_the_final_account() -> None:
    driver = busy()
    driver.give(RunCancelled(RUN, StopReason.cancelled("by hand")), RunEnded(RUN))
    (end,) = driver.events("run_ended")
    assert (end.data["output_tokens_spent"], end.data["output_tokens_unconfirmed"]) == (100, 100)


def test_an_overdraft_is_recorded_and_ends_the_run_after_its_answer_was_delivered() -> None:
    driver = Driver()
    driver.give(started(budget=budget(output_tokens_max=200)), query(1), query(2))
    effects = driver.give(answered(1, usage=Usage(1, 201)))
    assert [type(r).__name__ for r in responses(effects).values()] == ["Completed", "Cancelled"]
    assert driver.events("overdraft")[0].data == {"dimensions": ["output_tokens"]}
    assert [str(each.stop) for each in of(EndRun, effects)] == ["overdraft: output_tokens"]


def test_iterations_are_budgeted() -> None:
    driver = Driver()
    driver.give(started(budget=budget(iterations_max=2)))
    assert not of(EndRun, driver.give(IterationStarted(RUN), IterationStarted(RUN)))
    effects = driver.give(IterationStarted(RUN))
    assert [str(each.stop) for each in of(EndRun, effects)] == ["budget: iterations"]
    assert [e.data for e in driver.events("iteration_started")] == [{"iteration": 1}, {"iteration": 2}]


def test_a_turn_whose_code_could_not_run_does_not_begin() -> None:
    driver = Driver()
    driver.give(started(), IterationStarted(RUN), FuelUsed(RUN, 1_000))
    effects = driver.give(IterationStarted(RUN))
    assert [str(each.stop) for each in of(EndRun, effects)] == ["budget: fuel"]
    assert driver.scheduler.budget_view(RUN)[Dimension.ITERATIONS].spent == 1


def test_fuel_is_summed_over_the_run() -> None:
    driver = Driver()
    driver.give(started(), FuelUsed(RUN, 100), FuelUsed(RUN, 250))
    assert [e.data for e in driver.events("fuel_used")] == [
        {"fuel": 100, "total": 100},
        {"fuel": 250, "total": 350},
    ]


def test_a_run_cannot_start_twice() -> None:
    driver = Driver()
    driver.give(started())
    with pytest.raises(InternalError):
        driver.give(started())


def test_the_account_of_a_run_that_is_not_open_cannot_be_seen() -> None:
    with pytest.raises(InternalError):
        Driver().scheduler.budget_view(RUN)


def test_events_are_numbered_without_gaps_and_capped_while_the_end_always_fits() -> None:
    driver = Driver()
    driver.give(started(run=run_limits(events_max=6)))
    for number in range(10):
        driver.give(query(number), answered(number))
    driver.give(RunEnded(RUN))
    log = events(driver.said)
    assert [e.seq for e in log] == list(range(6))
    assert [e.kind for e in log[-2:]] == ["events_truncated", "run_ended"]


def test_denials_that_repeat_are_one_event_with_their_number() -> None:
    driver = Driver()
    driver.give(started(budget=budget(requests_max=1_000, calls_max=1)), query(0))
    refused = driver.give(*(query(n) for n in range(1, 501)))
    assert all(isinstance(r, Denied) for r in responses(refused).values())
    assert not events(refused)
    driver.give(answered(0))
    (event,) = driver.events("query_denied")
    assert (event.data["reason"], event.data["count"]) == ("budget: calls", 500)


def test_a_clock_that_goes_back_stands_still() -> None:
    driver = Driver()
    driver.give(started())
    driver.give(query(1), after_ms=100)
    driver.give(answered(1), after_ms=-50)
    assert [e.at_ns for e in events(driver.said)] == [0, 100 * MS, 100 * MS, 100 * MS]


def test_the_same_inputs_give_the_same_effects() -> None:
    first, second = busy(), busy()
    assert repr(first.said) == repr(second.said)
