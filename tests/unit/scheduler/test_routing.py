"""Which model is asked, and which in its place: each attempt is reserved anew, and paid at its own price."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import WindowExceeded
from rlm_wasm.ids import RequestId
from rlm_wasm.limits import ModelPrice
from rlm_wasm.scheduler import pricing, run_events
from rlm_wasm.scheduler.effects import SendQuery
from rlm_wasm.scheduler.inputs import RunEnded
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import FinishReason, Usage
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.scheduler.request import Completed, Denied, Failed, TimedOut
from rlm_wasm.scheduler.routing import Routing
from tests.support.core_facts import PRICE, RUN, budget, query, query_limits, started
from tests.support.scheduler_driver import Driver, answered, events, failed, fired, of, responses

MTOK = 1_000_000
DEAR = ModelPrice(10 * MTOK, 20 * MTOK)
CHEAP = ModelPrice(MTOK, MTOK)
PRICES = {"m": PRICE, "a:dear": DEAR, "b:cheap": CHEAP}
D = Dimension


def begun(fallback: Any = None, small: Any = None, **over: Any) -> Driver:
    driver = Driver()
    limits = query_limits(**over.pop("query", {}))
    routing = Routing.of(fallback, small)
    driver.give(started(prices=PRICES, routing=routing, query=limits, budget=budget(**over)))
    return driver


def line(driver: Driver, dimension: Dimension) -> tuple[int, int]:
    found = driver.scheduler.budget_view(RUN)[dimension]
    return found.spent, found.reserved


def asked(driver: Driver) -> list[str]:
    return [effect.model for effect in of(SendQuery, driver.said)]


@pytest.mark.threat("T-020")
def test_a_model_that_fails_is_replaced_and_each_is_paid_at_its_own_price() -> None:
    driver = begun({"m": ("a:dear", "b:cheap")})
    driver.give(query(1))
    bound = driver.events("query_received")[0].data
    assert (bound["model"], bound["reserved_cost_microdollars"]) == ("m", 15 * 10 + 100 * 20)
    driver.give(failed(1, 1, retryable=False, sent=True))  # nobody says what it cost: what `m` may cost
    assert line(driver, D.COST) == (15 * 2 + 100 * 4, 15 * 10 + 100 * 20)
    driver.give(failed(1, 2, retryable=False)._replace(sent=True, usage=Usage(3, 0)))
    effects = driver.give(answered(1, 3, usage=Usage(5, 7)))
    assert responses(effects) == {1: Completed("yes", Usage(5, 7))}
    assert line(driver, D.COST) == (430 + 3 * 10 + 5 + 7, 0)
    assert line(driver, D.CALLS) == (3, 0)
    assert asked(driver) == ["m", "a:dear", "b:cheap"]
    first, second = driver.events("query_rerouted")
    assert (first.data["model"], first.data["attempt"], first.data["error"]) == ("a:dear", 1, "ProviderError")
    assert (second.data["model"], second.data["reported_input_tokens"]) == ("b:cheap", 3)
    [end] = driver.events("query_answered")
    assert (end.data["model"], end.data["attempts"], end.data["cost_microdollars"]) == ("b:cheap", 3, 472)
    assert driver.scheduler.answered_by(RUN) == {"b:cheap": 1}


def test_each_model_has_all_its_attempts_and_the_last_failure_is_told() -> None:
    driver = begun({"m": ("b:cheap",)}, query={"attempts_max": 2})
    driver.give(query(1))
    for attempt in (1, 2, 3, 4):
        effects = driver.give(failed(1, attempt))
        if attempt in (1, 3):
            driver.give(fired("query_backoff:1"), after_ms=40)
    assert asked(driver) == ["m", "m", "b:cheap", "b:cheap"]
    assert isinstance(responses(effects)[RequestId(1)], Failed)
    assert len(driver.events("query_retry")) == 2
    driver.give(RunEnded(RUN))


def test_one_at_its_limit_is_replaced_at_once_and_the_last_one_waits() -> None:
    driver = begun({"m": ("b:cheap",)})
    driver.give(query(1))
    too_many = failed(1, 1, retry_after_ms=500)._replace(throttled=True)
    driver.give(too_many)
    assert asked(driver) == ["m", "b:cheap"]
    driver.give(too_many._replace(attempt=2))
    assert asked(driver) == ["m", "b:cheap"]
    assert driver.timer_due_ms("query_backoff:1") == 500


def caps(driver: Driver) -> list[tuple[str, int]]:
    return [(effect.model, effect.output_tokens_max) for effect in of(SendQuery, driver.said)]


def test_what_the_budget_does_not_cover_is_not_asked() -> None:
    # One attempt may cost 2,150 with the dear one in reserve; the first has cost 430 of 2,200.
    driver = begun({"m": ("a:dear",)}, cost_microdollars_max=2_200)
    driver.give(query(1))
    effects = driver.give(failed(1, 1, retryable=False, sent=True))
    assert isinstance(responses(effects)[RequestId(1)], Failed)
    assert asked(driver) == ["m"]
    refused = responses(driver.give(query(2)))[RequestId(2)]
    assert isinstance(refused, Denied), "the reservation covers the dearest that may answer"


def test_a_late_bill_is_at_the_price_of_the_model_that_was_asked() -> None:
    driver = begun({"m": ("a:dear",)})
    driver.give(query(1), failed(1, 1, retryable=False))
    effects = driver.give(fired("query_deadline:1"), after_ms=1_000)
    assert responses(effects) == {1: TimedOut(1_000)}
    driver.give(answered(1, 2, usage=Usage(2, 3)))
    assert line(driver, D.COST) == (2 * 10 + 3 * 20, 0)


def test_a_longer_attempt_is_reserved_for_whom_it_is_asked_of_alone() -> None:
    driver = begun({"m": ("a:dear",)}, query={"output_tokens_retry_max": 200})
    driver.give(query(1), answered(1, usage=Usage(1, 100))._replace(finish=FinishReason.LENGTH))
    assert line(driver, D.COST) == (2 + 400, 15 * 2 + 200 * 4)
    effects = driver.give(failed(1, 2, retryable=False, sent=True))
    assert responses(effects) == {1: Completed("yes", Usage(1, 100), FinishReason.LENGTH)}
    assert asked(driver) == ["m", "m"]
    assert line(driver, D.COST) == (2 + 400 + 15 * 2 + 200 * 4, 0)


@pytest.mark.threat("T-020")
def test_nothing_is_reserved_for_those_that_were_asked_already() -> None:
    # The dear one may have cost 2,150 of 2,300; the cheap one costs 115 at the most.
    driver = begun({"a:dear": ("b:cheap",)}, cost_microdollars_max=2_300)
    driver.give(query(1, model="a:dear"), failed(1, 1, retryable=False, sent=True))
    assert asked(driver) == ["a:dear", "b:cheap"]
    assert line(driver, D.COST) == (2_150, 115)
    [told] = driver.events("query_rerouted")
    assert (told.data["reserved_output_tokens"], told.data["reserved_cost_microdollars"]) == (100, 115)
    effects = driver.give(answered(1, 2))  # nobody says what it cost
    assert responses(effects) == {1: Completed("yes", None)}
    assert line(driver, D.COST) == (2_265, 0)


def test_the_cap_is_what_fits_the_window_of_whom_it_is_sent_to() -> None:
    prompt = "x" * 200
    windows = {"m": 100_000, "b:cheap": 90}
    driver = Driver()
    driver.give(started(prices=PRICES, windows=windows, routing=Routing.of({"m": ("b:cheap",)}, None)))
    driver.give(query(1, prompt=prompt), failed(1, 1, retryable=False))
    driver.give(query(2, prompt=prompt, model="b:cheap"))
    assert caps(driver) == [("m", 100), ("b:cheap", 64), ("b:cheap", 64)]
    assert driver.events("query_rerouted")[0].data["reserved_output_tokens"] == 64


def test_a_cap_that_was_made_smaller_for_one_model_is_not_the_next_ones() -> None:
    driver = begun({"m": ("b:cheap",)}, query={"output_tokens_max": 500})
    refused = failed(1)._replace(error=WindowExceeded("too long", answer_tokens_max=80), retryable=False)
    driver.give(query(1), refused, fired("query_backoff:1"), failed(1, 2, retryable=False))
    assert caps(driver) == [("m", 500), ("m", 80), ("b:cheap", 500)]
    driver.give(query(2, output_tokens_max=30), failed(2, 1, retryable=False))
    assert caps(driver)[3:] == [("m", 30), ("b:cheap", 30)]


@pytest.mark.parametrize(
    ("size", "named", "model"),
    [(4, False, "b:cheap"), (5, False, "a:dear"), (9, False, "a:dear"), (10, False, "m"), (4, True, "m")],
)
def test_a_smaller_prompt_goes_to_a_cheaper_model_unless_code_named_one(
    size: int, named: bool, model: str
) -> None:
    driver = begun(small={"a:dear": 9, "b:cheap": 4})
    driver.give(query(1, prompt="é" + "x" * (size - 2), by_size=not named))
    assert asked(driver) == [model]
    [received] = driver.events("query_received")
    assert received.data["model"] == model


def test_a_prompt_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have megabytes, and other runs wait meanwhile."""
    looked_at: list[str] = []

    def counted(text: str) -> int:
        looked_at.append(text)
        return utf8_bytes(text)

    for module in (pricing, run_events):
        monkeypatch.setattr(module, "utf8_bytes", counted)
    driver = begun(
        {"m": ("b:cheap",)},
        small={"b:cheap": 4},
        query={"output_tokens_max": 500, "output_tokens_retry_max": 900},
    )
    refused = failed(1)._replace(error=WindowExceeded("too long", window_tokens=400), retryable=False)
    driver.give(query(1, prompt="a prompt", by_size=True), refused, fired("query_backoff:1"))
    driver.give(
        failed(1, 2, retryable=False), answered(1, 3, usage=Usage(5, 5))._replace(finish=FinishReason.LENGTH)
    )
    driver.give(answered(1, 4, usage=Usage(5, 5)))
    assert len(driver.events("query_answered")) == len(driver.events("query_lengthened")) == 1
    assert looked_at.count("a prompt") == 1
    assert driver.events("query_received")[0].data["prompt_bytes"] == len("a prompt")


def test_a_name_that_is_none_is_refused_with_and_without_rules() -> None:
    driver = begun({"nobody": ("b:cheap",)})
    refused = responses(driver.give(query(1, model="nobody")))[RequestId(1)]
    assert isinstance(refused, Denied)
    assert "there are: a:dear, b:cheap, m" in refused.error.message


def test_a_place_without_a_price_is_left_out_and_nobody_is_asked_twice() -> None:
    rules = Routing.of({"m": ("x", "b:cheap", "m", "b:cheap")}, None)
    assert rules.candidates(query(1), PRICES, 9) == ("m", "b:cheap")


def test_the_same_inputs_give_the_same_events() -> None:
    def told() -> list[object]:
        driver = begun({"m": ("a:dear", "b:cheap")}, small={"b:cheap": 3})
        driver.give(query(1), query(2, prompt="x", by_size=True), failed(1, 1, retryable=False))
        driver.give(answered(1, 2, usage=Usage(1, 1)), answered(2))
        return list(events(driver.said))

    assert told() == told()
