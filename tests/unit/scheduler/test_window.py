"""What fits a model's window, and what is learned of it from what an endpoint refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import WindowExceeded
from rlm_wasm.scheduler.effects import SendQuery
from rlm_wasm.scheduler.inputs import ProviderFailed
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import Usage
from rlm_wasm.scheduler.request import Completed, Failed
from rlm_wasm.scheduler.window import ANSWER_TOKENS_LEAST, ModelWindow
from tests.support.core_facts import RUN, query, query_limits, started
from tests.support.scheduler_driver import Driver, answered, fired, of, responses

LONG = query_limits(output_tokens_max=500)


def too_long(attempt: int = 1, number: int = 1, **facts: int) -> ProviderFailed:
    error = WindowExceeded("too long", **facts)
    return ProviderFailed(RUN, query(number).request_id, attempt, error, retryable=False, sent=False)


def caps(driver: Driver, *inputs: Any) -> list[int]:
    return [sent.output_tokens_max for sent in of(SendQuery, driver.give(*inputs))]


def test_a_cap_that_was_too_much_is_sent_again_as_large_as_fits() -> None:
    driver = Driver()
    assert caps(driver, started(query=LONG), query(1)) == [500]
    assert caps(driver, too_long(window_tokens=400, prompt_tokens=100)) == []
    assert caps(driver, fired("query_backoff:1")) == [300]
    assert driver.scheduler.budget_view(RUN)[Dimension.OUTPUT_TOKENS].reserved == 300
    (retry,), (requeued,) = driver.events("query_retry"), driver.events("query_requeued")
    facts = ("error", "window_tokens", "prompt_tokens", "answer_tokens_max", "delay_ms")
    assert [retry.data[name] for name in facts] == ["WindowExceeded", 400, 100, None, 0]
    assert requeued.data["reserved_output_tokens"] == 300
    effects = driver.give(answered(1, attempt=2, usage=Usage(9, 4)))
    assert responses(effects) == {1: Completed("yes", Usage(9, 4), None, 400)}
    # What was learned holds for the next one: nothing is refused first. 9 bytes were 9 tokens.
    assert caps(driver, query(2)) == [400 - 9 - 32]


def test_what_a_policy_says_of_a_model_is_known_from_the_first_query() -> None:
    driver = Driver()
    assert caps(driver, started(query=LONG, windows={"m": 300}), query(1, prompt="x" * 296)) == [
        300 - 100 - 6 - 32
    ]


def test_messages_that_are_too_long_are_not_sent_again() -> None:
    driver = Driver()
    driver.give(started(query=LONG), query(1))
    refusal = too_long(window_tokens=400, prompt_tokens=399)
    assert responses(driver.give(refusal)) == {1: Failed(refusal.error)}
    assert driver.scheduler.budget_view(RUN)[Dimension.OUTPUT_TOKENS].spent == 0


def test_an_endpoint_that_refuses_whatever_it_is_sent_is_asked_as_often_as_any() -> None:
    driver = Driver()
    driver.give(started(query=query_limits(output_tokens_max=4_800)), query(1))
    for attempt in (1, 2):
        assert responses(driver.give(too_long(attempt))) == {}
        driver.give(fired("query_backoff:1"))
    refusal = too_long(3)
    assert responses(driver.give(refusal)) == {1: Failed(refusal.error)}
    assert [event.data["reserved_output_tokens"] for event in driver.events("query_requeued")] == [1200, 300]


def test_the_most_that_an_answer_may_be_is_learned() -> None:
    driver = Driver()
    driver.give(started(query=LONG), query(1), too_long(answer_tokens_max=128))
    assert caps(driver, fired("query_backoff:1")) == [128]
    assert caps(driver, query(2)) == [128]


@pytest.mark.parametrize("count", [0, -1, 10_000])
def test_a_count_that_no_tokenizer_could_come_to_is_no_measure(count: int) -> None:
    window = ModelWindow(1_000)
    window.counted(300, count)
    assert window.estimate(300) == 100


@given(
    st.none() | st.integers(1, 10**6), st.none() | st.integers(1, 10**6), st.none() | st.integers(1, 10**6),
    st.integers(0, 10**7), st.integers(1, 10**5),
)  # fmt: skip
def test_whatever_an_endpoint_says_a_cap_only_shrinks_and_is_at_least_one(
    window: int | None, prompt: int | None, answer: int | None, size: int, cap: int
) -> None:
    subject = ModelWindow()
    error = WindowExceeded("x", window_tokens=window, prompt_tokens=prompt, answer_tokens_max=answer)
    subject.refused(error, size)
    smaller = subject.smaller_cap(error, size, cap)
    assert smaller is None or 1 <= smaller < cap
    assert 1 <= subject.cap(size, cap) <= cap
    assert subject.cap(size, cap) >= min(cap, ANSWER_TOKENS_LEAST, answer or cap)
