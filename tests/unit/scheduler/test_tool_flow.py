"""A call of a tool: reserved for, made once, answered once, charged once it was called."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import (
    BudgetExceeded,
    LimitExceeded,
    QueryCancelled,
    ToolArgumentError,
    ToolError,
    ToolTimeout,
)
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied, Failed, Response, error_of
from rlm_wasm.scheduler.scheduler import (
    BatchReceived,
    CallTool,
    CancelTool,
    Effect,
    EmitEvent,
    RequestAbandoned,
    Respond,
    RunCancelled,
    RunEnded,
    Scheduler,
    SetTimer,
    TimerFired,
    ToolCalled,
    ToolFinished,
    ToolTerms,
)
from tests.support.core_facts import MS, RUN, budget, permit_limits, query_limits
from tests.support.core_facts import started as run_started

TERMS = {"look": ToolTerms(30, 3, 50), "free": ToolTerms(0, None, 10_000_000)}


def started(**over: Any) -> Scheduler:
    scheduler = Scheduler(permit_limits())
    scheduler.handle(run_started(tools=TERMS, texts=True, **over), 0)
    return scheduler


def call(number: int, tool: str = "look", arguments: str = "{}", group: int | None = None) -> ToolCalled:
    return ToolCalled(RUN, RequestId(number), 0, tool, arguments, group, None, 1_000)


def responses(effects: list[Effect]) -> dict[int, Response]:
    return {each.request_id: each.response for each in effects if isinstance(each, Respond)}


def events(effects: list[Effect], kind: str) -> list[dict[str, Any]]:
    found = [each.event for each in effects if isinstance(each, EmitEvent)]
    return [dict(event.data) for event in found if event.kind == kind]


def spent(scheduler: Scheduler, dimension: Dimension = Dimension.COST) -> tuple[int, int]:
    line = scheduler.budget_view(RUN)[dimension]
    return line.spent, line.reserved


def test_a_call_is_made_once_and_its_result_is_the_response() -> None:
    scheduler = started()
    effects = scheduler.handle(call(1, arguments='{"a":1}'), MS)
    assert [each for each in effects if isinstance(each, CallTool)] == [
        CallTool(RUN, RequestId(1), "look", '{"a":1}', 1_000)
    ]
    assert [each for each in effects if isinstance(each, SetTimer)] == [
        SetTimer(RUN, "tool_deadline:1", 51 * MS)
    ]
    assert events(effects, "tool_called")[0]["arguments"] == '{"a":1}'
    assert spent(scheduler) == (0, 30)
    done = scheduler.handle(ToolFinished(RUN, RequestId(1), "7"), 2 * MS)
    assert responses(done) == {1: Completed("7", None)}
    assert events(done, "tool_answered")[0]["status"] == "completed"
    assert spent(scheduler) == (30, 0)
    assert scheduler.handle(ToolFinished(RUN, RequestId(1), "8"), 3 * MS) == []
    assert spent(scheduler, Dimension.REQUESTS) == (1, 0)


@pytest.mark.threat("T-344")
@pytest.mark.parametrize(
    ("error", "called", "status", "cost"),
    [
        (ToolError("no"), True, "failed", 30),
        (LimitExceeded("too large", key="tools.result_bytes_max", size=9, limit=8), True, "failed", 30),
        (ToolArgumentError("a: no"), False, "denied", 0),
    ],
)
def test_what_was_called_costs_its_price_and_what_was_not_costs_nothing(
    error: ToolError, called: bool, status: str, cost: int
) -> None:
    scheduler = started()
    scheduler.handle(call(1), MS)
    done = scheduler.handle(ToolFinished(RUN, RequestId(1), error=error, called=called), 2 * MS)
    response = responses(done)[1]
    assert isinstance(response, Failed if called else Denied)
    assert error_of(response) is error
    (event,) = events(done, "tool_answered")
    assert (event["status"], event["cost_microdollars"]) == (status, cost)
    assert spent(scheduler) == (cost, 0)


def test_a_tool_that_is_not_the_runs_and_one_that_has_no_call_left_are_refused() -> None:
    scheduler = started()
    unknown = responses(scheduler.handle(call(1, "other"), MS))[1]
    assert str(error_of(unknown)) == "this run has no tool of that name; there are: free, look"
    for number in (2, 3, 4):
        assert not responses(scheduler.handle(call(number), MS))
    refused = error_of(responses(scheduler.handle(call(5), MS))[5])
    assert isinstance(refused, BudgetExceeded)
    assert refused.key == "tools.caps.look.calls_max"
    assert spent(scheduler) == (0, 90)


def test_a_call_that_was_not_made_is_none_of_those_that_a_tool_has() -> None:
    scheduler = started()
    wrong = ToolArgumentError("a: no")
    for number in (1, 2, 3):
        scheduler.handle(call(number), MS)
        scheduler.handle(ToolFinished(RUN, RequestId(number), error=wrong, called=False), MS)
    for number in (4, 5, 6):
        assert not responses(scheduler.handle(call(number), MS))
    assert isinstance(error_of(responses(scheduler.handle(call(7), MS))[7]), BudgetExceeded)


@pytest.mark.threat("T-344")
def test_a_price_that_is_not_left_is_refused_and_nothing_is_called() -> None:
    scheduler = started(budget=budget(cost_microdollars_max=50))
    scheduler.handle(call(1), MS)
    effects = scheduler.handle(call(2), MS)
    assert isinstance(error_of(responses(effects)[2]), BudgetExceeded)
    assert not any(isinstance(each, CallTool) for each in effects)
    assert spent(scheduler) == (0, 30)


def test_at_its_deadline_a_call_is_given_up_and_a_late_result_does_nothing() -> None:
    scheduler = started()
    scheduler.handle(call(1), MS)
    late = scheduler.handle(TimerFired(RUN, "tool_deadline:1"), 51 * MS)
    assert CancelTool(RUN, RequestId(1)) in late
    error = error_of(responses(late)[1])
    assert isinstance(error, ToolTimeout)
    assert str(error) == "the tool look did not come back within 50 ms"
    assert events(late, "tool_answered")[0]["status"] == "timed_out"
    assert spent(scheduler) == (30, 0)
    assert scheduler.handle(ToolFinished(RUN, RequestId(1), "7"), 52 * MS) == []


@pytest.mark.threat("T-344")
@pytest.mark.parametrize(
    "ending",
    [RequestAbandoned(RUN, RequestId(1)), RunCancelled(RUN, StopReason.cancelled("x")), RunEnded(RUN)],
    ids=["its cell", "its run", "all of it"],
)
def test_whatever_ends_around_it_a_call_is_answered_once_and_leaves_nothing(ending: Any) -> None:
    scheduler = started()
    scheduler.handle(call(1), MS)
    ended = scheduler.handle(ending, 2 * MS)
    assert CancelTool(RUN, RequestId(1)) in ended
    assert isinstance(responses(ended)[1], Cancelled)
    assert isinstance(error_of(responses(ended)[1]), QueryCancelled)
    if not isinstance(ending, RunEnded):
        assert spent(scheduler) == (30, 0)
        scheduler.handle(RunEnded(RUN), 3 * MS)
    assert scheduler.open_runs == ()


def test_after_its_run_a_call_is_still_answered() -> None:
    scheduler = started()
    scheduler.handle(RunEnded(RUN), MS)
    assert isinstance(responses(scheduler.handle(call(1), MS))[1], Cancelled)


@pytest.mark.parametrize(("batch", "made"), [("part", [1, 2, 3]), ("all", [])])
def test_a_batch_is_made_in_part_or_not_at_all_as_the_policy_says(batch: str, made: list[int]) -> None:
    scheduler = started(query=query_limits(batch=batch))
    effects = scheduler.handle(BatchReceived(RUN, tuple(call(n, group=9) for n in (1, 2, 3, 4))), MS)
    assert [each.request_id for each in effects if isinstance(each, CallTool)] == made
    assert sorted(responses(effects)) == [n for n in (1, 2, 3, 4) if n not in made]
    assert spent(scheduler) == (0, 30 * len(made))
    assert spent(scheduler, Dimension.REQUESTS) == (4, 0)


def test_no_call_takes_longer_than_a_guest_may_wait() -> None:
    scheduler = started()
    effects = scheduler.handle(call(1, "free"), 0)
    (timer,) = [each for each in effects if isinstance(each, SetTimer)]
    assert timer.at_ns < 10_000_000 * MS
