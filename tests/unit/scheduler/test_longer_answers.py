"""Answers that their cap on tokens cut off: asked for once more with a larger one, or left as they are."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.outcomes import StopReason
from rlm_wasm.replay.recorded_event import cause_of
from rlm_wasm.scheduler.effects import SendQuery
from rlm_wasm.scheduler.inputs import ProviderAnswered, RunCancelled, RunEnded
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import CacheUse, FinishReason, Usage
from rlm_wasm.scheduler.request import Completed
from tests.support.core_facts import RUN, budget, query, query_limits, started
from tests.support.scheduler_driver import Driver, answered, failed, fired, of, responses, sent

CUT = FinishReason.LENGTH


def cut(number: int, attempt: int = 1, usage: Usage | None = None, text: str = "ye") -> ProviderAnswered:
    return answered(number, attempt, usage=usage, text=text)._replace(finish=CUT)


def begun(retry_max: int = 300, **over: Any) -> Driver:
    driver = Driver()
    limits = query_limits(output_tokens_retry_max=retry_max, **over.pop("query", {}))
    driver.give(started(query=limits, budget=budget(**over)))
    return driver


def spent(driver: Driver) -> dict[Dimension, int]:
    return {name: line.spent for name, line in driver.scheduler.budget_view(RUN).items()}


@pytest.mark.threat("T-020")
def test_it_is_asked_for_once_more_with_the_larger_cap_and_both_are_charged() -> None:
    driver = begun()
    driver.give(query(1))
    effects = driver.give(cut(1, usage=Usage(5, 100)))
    [again] = of(SendQuery, effects)
    assert (again.attempt, again.output_tokens_max) == (2, 300)
    assert not responses(effects)
    line = driver.scheduler.budget_view(RUN)[Dimension.OUTPUT_TOKENS]
    assert (line.spent, line.reserved) == (100, 300)
    done = driver.give(answered(1, 2, usage=Usage(5, 160)))
    assert responses(done) == {1: Completed("yes", Usage(5, 160))}
    assert spent(driver)[Dimension.OUTPUT_TOKENS] == 260
    assert spent(driver)[Dimension.CALLS] == 2
    [told] = driver.events("query_lengthened")
    assert (told.data["attempt"], told.data["reserved_output_tokens"]) == (1, 300)
    assert (told.data["reported_output_tokens"], told.data["finish"]) == (100, "length")
    [end] = driver.events("query_answered")
    assert (end.data["attempts"], end.data["output_tokens"], end.data["longer"]) == (2, 260, None)


@pytest.mark.parametrize("cache", ["hit", "miss", None])
def test_the_log_tells_what_a_cache_had_of_the_answer_that_was_cut(cache: CacheUse | None) -> None:
    driver = Driver()
    driver.give(started(query=query_limits(output_tokens_retry_max=300), texts=True), query(1))
    given = cut(1)._replace(cache=cache)
    driver.give(given)
    [told] = driver.events("query_lengthened")
    assert told.data["cache"] == cache
    assert cause_of(told, stopped=False) == given, "a replay is given the same"
    assert spent(driver)[Dimension.CALLS] == int(cache != "hit")


def test_a_second_cut_is_not_the_first_of_many() -> None:
    driver = begun()
    driver.give(query(1), cut(1))
    assert responses(driver.give(cut(1, 2, text="yes and"))) == {1: Completed("yes and", None, CUT)}


@pytest.mark.parametrize(
    ("over", "asked"),
    [
        ({"retry_max": 0}, {}),
        ({"query": {"attempts_max": 1}}, {}),
        ({"calls_max": 1}, {}),
        ({"output_tokens_max": 399}, {}),
        ({"retry_max": 100}, {}),
        ({}, {"output_tokens_max": 50}),
        ({}, {"origin": "last", "ending": StopReason.budget("calls", 10)}),
    ],
)
def test_without_leave_room_or_sense_it_stands_as_it_is(over: dict[str, Any], asked: dict[str, Any]) -> None:
    driver = begun(**over)
    driver.give(query(1, **asked))
    assert responses(driver.give(cut(1, usage=Usage(5, 100)))) == {1: Completed("ye", Usage(5, 100), CUT)}
    assert not driver.events("query_lengthened")


@pytest.mark.parametrize("retryable", [True, False])
def test_where_the_longer_attempt_fails_the_answer_stands(retryable: bool) -> None:
    driver = begun()
    driver.give(query(1), cut(1, usage=Usage(5, 100)))
    effects = driver.give(failed(1, 2, retryable=retryable, sent=True))
    assert responses(effects) == {1: Completed("ye", Usage(5, 100), CUT)}
    [end] = driver.events("query_answered")
    assert (end.data["status"], end.data["longer"], end.data["sent"]) == ("completed", "failed", True)
    assert spent(driver)[Dimension.OUTPUT_TOKENS] == 400  # what nobody billed costs what was reserved
    driver.give(RunEnded(RUN))


@pytest.mark.parametrize("permits", [1, 2])
def test_where_the_deadline_comes_first_the_answer_stands(permits: int) -> None:
    driver = Driver(permits_max=permits)
    driver.give(started(query=query_limits(output_tokens_retry_max=300)))
    driver.give(query(1), query(2))
    driver.give(cut(1))  # with one permit, it waits behind the other query now
    assert (RUN, 1, 2) in sent(driver.said) or permits == 1
    effects = driver.give(fired("query_deadline:1"), after_ms=1_000)
    assert responses(effects) == {1: Completed("ye", None, CUT)}
    [end] = driver.events("query_answered")
    assert end.data["longer"] == "timed_out"


def test_a_run_that_ends_meanwhile_waits_for_nothing() -> None:
    driver = begun()
    driver.give(query(1), cut(1))
    effects = driver.give(RunCancelled(RUN, StopReason.cancelled("enough")))
    assert responses(effects)[1].status == "cancelled"
    driver.give(RunEnded(RUN))
    assert driver.scheduler.permits_held == 0
