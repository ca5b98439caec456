"""Children: admitted or refused at once, answered once, ended with whoever asked for them."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import BudgetExceeded, ChildFailed, DepthExceeded, InternalError, QueryError
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.conversation import CHILD_TRANSITIONS, ChildState, ChildStep, ConversationState
from rlm_wasm.scheduler.effects import CancelQuery, EndRun, Respond, StartChild, StopChild
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    CellStarted,
    ChildFinished,
    FuelUsed,
    Input,
    IterationStarted,
    ObservationMade,
    RequestAbandoned,
    RunCancelled,
    RunEnded,
)
from rlm_wasm.scheduler.ledger import Dimension, Ledger
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, TimedOut
from tests.support.core_facts import RUN, boundary, budget, child, query, query_limits, run_limits, started
from tests.support.scheduler_driver import Driver, answered, events, fired, of, responses, sent


def inside(parent: int, depth: int = 1) -> dict[str, Any]:
    return {"parent": RequestId(parent), "depth": depth}


def tree(depth_max: int = 3, **over: Any) -> Driver:
    """Return a run with a child 1, its child 2, and a query in flight of each conversation."""
    driver = Driver(permits_max=10)
    limits = run_limits(depth_max=depth_max, permits_max=10, **over)
    driver.give(started(run=limits), child(1), child(2, **inside(1)))
    driver.give(query(10), query(11, **inside(1)), query(12, **inside(2, 2)))
    return driver


def refusal(driver: Driver, given: Input) -> QueryError:
    (response,) = responses(driver.give(given)).values()
    assert isinstance(response, Denied)
    return response.error


def spent(driver: Driver, dimension: Dimension, parent: int | None = None) -> int:
    number = None if parent is None else RequestId(parent)
    return driver.scheduler.budget_view(RUN, number)[dimension].spent


def test_a_child_starts_at_once_one_deeper() -> None:
    driver = Driver()
    effects = driver.give(started(), child(1, question="why?"))
    assert of(StartChild, effects) == [StartChild(RUN, RequestId(1), 1, "m", "why?", None)]
    assert driver.timer_due_ms("child_deadline:1") == 1_500
    assert spent(driver, Dimension.CHILDREN) == 1
    (event,) = driver.events("child_started")
    assert (event.depth, event.parent, event.data["child_depth"]) == (0, None, 1)
    assert "question" not in event.data


def test_its_answer_is_its_parents_response() -> None:
    driver = Driver()
    driver.give(started(), child(1))
    effects = driver.give(ChildFinished(RUN, RequestId(1), "42"))
    assert responses(effects) == {1: Completed("42", None)}
    assert driver.give(ChildFinished(RUN, RequestId(1), "43")) == []
    assert not of(StopChild, driver.said)


def test_its_failure_is_typed() -> None:
    driver = Driver()
    driver.give(started(), child(1), child(2))
    error = ChildFailed("out of turns", partial="a draft")
    assert responses(driver.give(ChildFinished(RUN, RequestId(1), None, error))) == {1: Failed(error)}
    (response,) = responses(driver.give(ChildFinished(RUN, RequestId(2)))).values()
    assert isinstance(response, Failed)
    assert isinstance(response.error, ChildFailed)


@pytest.mark.threat("T-070")
@pytest.mark.parametrize(
    ("limits", "money", "dimension"),
    [
        ({"fanout_max": 1}, {}, "run.fanout"),
        ({"sessions_max": 2}, {}, "run.sessions"),
        ({}, {"children_max": 1}, "children"),
        ({}, {"requests_max": 1}, "requests"),
        ({}, {"iterations_max": 0}, "iterations"),
        ({}, {"fuel_max": 0}, "fuel"),
        ({}, {"calls_max": 0}, "calls"),
    ],
)
def test_depth_fan_out_sessions_and_children_are_bounded(limits: Any, money: Any, dimension: str) -> None:
    driver = Driver()
    driver.give(started(run=run_limits(**limits), budget=budget(**money)))
    said = driver.give(child(1), child(2))
    error = [r for r in responses(said).values() if isinstance(r, Denied)][-1].error
    assert isinstance(error, BudgetExceeded)
    assert error.dimension == dimension
    assert len(of(StartChild, said)) == (0 if money and max(money.values()) == 0 else 1)


def test_a_child_of_a_child_too_deep_is_denied() -> None:
    driver = Driver()
    driver.give(started(run=run_limits(depth_max=1)), child(1))
    assert isinstance(refusal(driver, child(2, **inside(1))), DepthExceeded)
    driver.give(started(RUN.__class__("run_c"), run=run_limits(depth_max=0)))
    assert isinstance(refusal(driver, child(1, RUN.__class__("run_c"))), DepthExceeded)


def test_a_cell_may_start_its_children_anew() -> None:
    driver = Driver()
    driver.give(started(run=run_limits(fanout_max=1), budget=budget(fuel_max=10**9)), child(1))
    assert isinstance(refusal(driver, child(2)), BudgetExceeded)
    assert of(StartChild, driver.give(CellStarted(RUN, 2, 9), child(3)))


def test_a_place_comes_free_when_the_session_is_gone_and_not_before() -> None:
    driver = Driver()
    driver.give(started(run=run_limits(sessions_max=2)), child(1))
    driver.give(RequestAbandoned(RUN, RequestId(1)))
    assert isinstance(refusal(driver, child(2)), BudgetExceeded)
    driver.give(ChildFinished(RUN, RequestId(1)))
    assert of(StartChild, driver.give(child(3)))


@pytest.mark.threat("T-071")
def test_no_permit_is_held_while_a_guest_waits_for_a_child() -> None:
    driver = Driver(permits_max=1)
    driver.give(
        started(run=run_limits(depth_max=3)), child(1), child(2, **inside(1)), child(3, **inside(2, 2))
    )
    assert driver.scheduler.permits_held == 0
    assert sent(driver.give(query(9, **inside(3, 3)))) == [(RUN, 9, 1)]


@pytest.mark.threat("T-073")
@pytest.mark.parametrize(
    ("stop", "first", "reason"),
    [
        (RequestAbandoned(RUN, RequestId(1)), Cancelled("nobody waits for it any more"), "nobody waits"),
        (fired("child_deadline:1"), TimedOut(1_500), "its deadline"),
    ],
)
def test_ending_a_parent_ends_all_below_it_deepest_first(stop: Input, first: Any, reason: str) -> None:
    driver = tree()
    effects = driver.give(stop)
    order = [
        (type(e).__name__, e.request_id) for e in effects if isinstance(e, CancelQuery | Respond | StopChild)
    ]
    assert order == [
        *[("CancelQuery", 12), ("Respond", 12), ("Respond", 2), ("StopChild", 2)],
        *[("CancelQuery", 11), ("Respond", 11), ("Respond", 1), ("StopChild", 1)],
    ]
    said = responses(effects)
    assert said[1] == first
    assert all(isinstance(said[number], Cancelled) for number in (2, 11, 12))
    assert 10 not in said  # the root goes on
    assert all(str(e.stop).startswith(reason) for e in of(StopChild, effects))
    assert driver.scheduler.permits_held == 1


def test_what_an_ended_child_still_asks_is_cancelled_at_once() -> None:
    driver = tree()
    driver.give(RequestAbandoned(RUN, RequestId(1)))
    said = driver.give(query(20, **inside(2, 2)), child(21, **inside(1)), IterationStarted(RUN, RequestId(1)))
    assert {type(r) for r in responses(said).values()} == {Cancelled}
    driver.give(ChildFinished(RUN, RequestId(2)))
    assert isinstance(responses(driver.give(query(22, **inside(2, 2))))[22], Cancelled)


def test_a_late_finish_is_recorded_and_never_delivered() -> None:
    driver = tree()
    driver.give(fired("child_deadline:1"))
    effects = driver.give(ChildFinished(RUN, RequestId(1), "too late"))
    assert [e.kind for e in events(effects)] == ["child_gone"]
    assert not responses(effects)


def test_a_childs_deadline_is_never_past_its_parents() -> None:
    driver = Driver()
    driver.give(started(run=run_limits(depth_max=2)), child(1))
    driver.give(child(2, **inside(1)), after_ms=1_000)
    assert driver.timer_due_ms("child_deadline:2") == 500


def test_a_guest_waits_no_longer_for_a_child_than_the_boundary_allows() -> None:
    driver = Driver()
    driver.give(started(boundary=boundary(host_wait_ms_max=700)), child(1))
    assert driver.timer_due_ms("child_deadline:1") == 700


@pytest.mark.parametrize(
    "stop", [RunCancelled(RUN, StopReason.cancelled("by hand")), fired("run_deadline"), FuelUsed(RUN, 10**6)]
)
def test_the_end_of_a_run_ends_every_descendant_at_once(stop: Input) -> None:
    driver = tree()
    effects = driver.give(stop)
    assert set(responses(effects)) == {1, 2, 10, 11, 12}
    assert {e.request_id for e in of(StopChild, effects)} == {1, 2}
    assert len(of(EndRun, effects)) == 1
    assert driver.scheduler.permits_held == 0
    assert [e.kind for e in events(driver.give(RunEnded(RUN)))] == ["run_ended"]
    assert driver.give(ChildFinished(RUN, RequestId(1))) == []


def test_a_run_that_ends_unasked_answers_for_its_children() -> None:
    effects = tree().give(RunEnded(RUN))
    assert set(responses(effects)) == {1, 2, 10, 11, 12}


@pytest.mark.threat("T-074")
def test_a_cap_is_checked_beside_the_ledger_and_counted_in_it() -> None:
    driver = Driver(permits_max=10)
    caps = {Dimension.CALLS: 2}
    driver.give(started(run=run_limits(depth_max=2, permits_max=10)), child(1, caps=caps))
    driver.give(query(10, **inside(1)), child(2, **inside(1)), query(11, **inside(2, 2)))
    error = refusal(driver, query(12, **inside(2, 2)))
    assert isinstance(error, BudgetExceeded)
    assert (error.dimension, error.limit, error.available) == ("calls", 2, 0)
    assert sent(driver.give(query(13))) == [(RUN, 13, 1)]  # the root has calls left
    assert driver.scheduler.budget_view(RUN)[Dimension.CALLS].reserved == 3


def test_a_share_is_taken_of_what_is_left_when_the_child_starts() -> None:
    driver = Driver()
    limits = run_limits(child_share_percent=50, depth_max=2)
    driver.give(started(run=limits, budget=budget(calls_max=9)), query(10), child(1), child(2, **inside(1)))
    view = driver.scheduler.budget_view(RUN, RequestId(1))[Dimension.CALLS]
    assert (view.limit, view.available) == (4, 4)  # half of the 8 that the query left
    assert driver.scheduler.budget_view(RUN, RequestId(2))[Dimension.CALLS].limit == 2


@pytest.mark.threat("T-074")
def test_siblings_never_spend_more_than_the_run_has() -> None:
    driver = Driver(permits_max=100)
    driver.give(started(run=run_limits(permits_max=100), budget=budget(calls_max=5)), child(1), child(2))
    for number in range(10, 20):
        driver.give(query(number, **inside(1 + number % 2)))
    assert driver.scheduler.budget_view(RUN)[Dimension.CALLS].reserved == 5


@pytest.mark.parametrize(
    "given", [IterationStarted(RUN, RequestId(1)), ObservationMade(RUN, 50, RequestId(1))]
)
def test_a_child_without_budget_may_still_give_its_best(given: Input) -> None:
    caps = {Dimension.ITERATIONS: 1, Dimension.OBSERVATION_BYTES: 40}
    driver = Driver()
    driver.give(started(), child(1, caps=caps), IterationStarted(RUN, RequestId(1)), query(9, **inside(1)))
    effects = driver.give(given)
    (stop,) = of(StopChild, effects)
    assert str(stop.stop).startswith("budget: ")
    assert set(responses(effects)) == {9}  # what it asked has ended; it has not
    assert not of(EndRun, effects)
    best = ChildFailed("ended early", partial="a draft")
    assert responses(driver.give(ChildFinished(RUN, RequestId(1), None, best))) == {1: Failed(best)}


def test_a_child_asked_to_end_still_meets_its_deadline() -> None:
    driver = Driver()
    driver.give(started(), child(1, caps={Dimension.FUEL: 5}), FuelUsed(RUN, 6, RequestId(1)))
    assert str(of(StopChild, driver.said)[0].stop) == "overdraft: fuel"
    effects = driver.give(fired("child_deadline:1"))
    assert responses(effects) == {1: TimedOut(1_500)}
    assert not of(StopChild, effects)  # once is enough


def test_fuel_and_observations_are_counted_for_the_run_and_the_child() -> None:
    driver = Driver()
    driver.give(started(), child(1), FuelUsed(RUN, 7), FuelUsed(RUN, 5, RequestId(1)))
    driver.give(ObservationMade(RUN, 30), ObservationMade(RUN, 20, RequestId(1)))
    assert (spent(driver, Dimension.FUEL), spent(driver, Dimension.OBSERVATION_BYTES)) == (12, 50)
    driver.give(ChildFinished(RUN, RequestId(1), "done"))
    (event,) = driver.events("child_answered")
    assert (event.data["fuel_spent"], event.data["observation_bytes_spent"]) == (5, 20)


def test_the_roots_observations_beyond_the_budget_end_the_run() -> None:
    driver = Driver()
    driver.give(started(budget=budget(observation_bytes_max=10)))
    effects = driver.give(ObservationMade(RUN, 11))
    assert [str(each.stop) for each in of(EndRun, effects)] == ["budget: observation_bytes"]
    assert spent(driver, Dimension.OBSERVATION_BYTES) == 0


def test_depth_chooses_the_model_unless_the_guest_names_one() -> None:
    driver = Driver()
    limits = run_limits(depth_max=3)
    prices = {name: started().prices["m"] for name in ("m", "one", "two")}
    driver.give(started(run=limits, prices=prices, child_models=("one", "two")))
    driver.give(child(1), child(2, **inside(1)), child(3, **inside(2, 2)), child(4, model="m"))
    assert [e.model for e in of(StartChild, driver.said)] == ["one", "two", "two", "m"]
    assert "there are: m, one, two" in str(refusal(driver, child(5, model="evil")))


@pytest.mark.threat("T-075")
def test_what_a_cells_cap_or_an_unknown_model_refuses_is_counted_and_logged() -> None:
    driver = Driver()
    driver.give(started(cell_requests_max=2), query(1, model="nobody"), query(2), query(3), child(4))
    assert spent(driver, Dimension.REQUESTS) == 4
    driver.give(RunEnded(RUN))
    assert driver.events("run_ended")[0].data["queries_denied"] == 3
    assert {e.data["reason"] for e in driver.events("query_denied")} == {
        "QueryError",
        "budget: cell.requests",
    }


def test_the_completions_of_the_model_are_no_requests_of_the_cell() -> None:
    driver = Driver()
    driver.give(started(cell_requests_max=1), query(1, origin="root"), query(2))
    assert not responses(driver.said)


BATCH = tuple(query(n) for n in (1, 2, 3))
CHILDREN = tuple(child(n) for n in (1, 2, 3))


@pytest.mark.parametrize("items", [BATCH, CHILDREN])
@pytest.mark.parametrize("batch", ["all", "part"])
def test_a_batch_is_reserved_whole_or_in_part_as_the_policy_says(items: Any, batch: str) -> None:
    driver = Driver(permits_max=10)
    money = budget(calls_max=2) if items is BATCH else budget(children_max=2)
    driver.give(started(query=query_limits(batch=batch), budget=money))
    said = responses(driver.give(BatchReceived(RUN, items)))
    assert {number: type(r) for number, r in said.items()} == (
        {3: Denied} if batch == "part" else {1: Denied, 2: Denied, 3: Denied}
    )
    assert spent(driver, Dimension.REQUESTS) == 3
    lines = driver.scheduler.budget_view(RUN)
    held = lines[Dimension.CALLS].reserved + lines[Dimension.CHILDREN].spent
    assert held == (2 if batch == "part" else 0)
    standing = driver.scheduler.standing(RUN, None, driver.now_ns)
    assert standing["cell_requests"].spent == 3
    if items is CHILDREN:
        assert standing["sessions"].spent == (3 if batch == "part" else 1)
        assert standing["cell_children"].spent == (2 if batch == "part" else 0)


def test_a_batch_that_fits_starts_whole() -> None:
    driver = Driver(permits_max=10)
    driver.give(started(query=query_limits(batch="all")))
    assert len(of(StartChild, driver.give(BatchReceived(RUN, CHILDREN)))) == 3


def test_a_batch_of_a_run_that_is_gone_is_answered_item_by_item() -> None:
    said = Driver().give(BatchReceived(RUN, BATCH), BatchReceived(RUN, (child(4),)))
    assert {number: type(r) for number, r in responses(said).items()} == dict.fromkeys(
        (1, 2, 3, 4), Cancelled
    )


def test_a_request_cannot_come_from_a_depth_that_is_not_its_own() -> None:
    driver = tree()
    for given in (query(50, **inside(1, 2)), child(51, depth=1)):
        with pytest.raises(InternalError, match="another depth"):
            driver.give(given)


def test_an_abandoned_query_is_cancelled_and_its_permit_free() -> None:
    driver = Driver(permits_max=1)
    driver.give(started(), query(1), query(2))
    effects = driver.give(RequestAbandoned(RUN, RequestId(1)))
    assert isinstance(responses(effects)[1], Cancelled)
    assert sent(effects) == [(RUN, 2, 1)]
    assert driver.give(RequestAbandoned(RUN, RequestId(1)), RequestAbandoned(RUN, RequestId(99))) == []


def test_a_late_bill_of_a_child_counts_in_its_cap_and_the_run() -> None:
    driver = tree()
    driver.give(fired("query_deadline:11"), answered(11))
    assert driver.scheduler.budget_view(RUN)[Dimension.OUTPUT_TOKENS].spent == 100


def test_every_step_that_the_table_does_not_have_is_our_bug() -> None:
    view = Ledger(budget()).root
    for state in ChildState:
        for step in ChildStep:
            each = ConversationState(depth=1, view=view, deadline_ns=0, state=state)
            if step in CHILD_TRANSITIONS[state]:
                each.step(step)
            else:
                with pytest.raises(InternalError):
                    each.step(step)
    assert not CHILD_TRANSITIONS[ChildState.GONE]


def test_texts_of_children_are_written_only_if_the_run_grants_them() -> None:
    secret = "the secret part"
    for texts in (False, True):
        driver = Driver()
        driver.give(started(texts=texts), child(1, question=secret), ChildFinished(RUN, RequestId(1), secret))
        assert (secret in repr(events(driver.said))) is texts
