"""Backoff and cost: arithmetic that must never round in the guest's favour."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.limits import ModelPrice
from rlm_wasm.scheduler.ledger import Charge
from rlm_wasm.scheduler.messages import TOKENS_PLAUSIBLE_MAX, Message, Usage
from rlm_wasm.scheduler.pricing import (
    cost_microdollars,
    input_tokens_bound,
    prompt_bytes,
    reservation_charge,
    usage_charge,
    usage_or_estimate,
)
from rlm_wasm.scheduler.retry import backoff_ms, jitter_unit
from tests.support.core_facts import PRICE, query_limits

units = st.floats(0, 1, exclude_max=True)


def test_backoff_doubles_until_its_cap() -> None:
    limits = query_limits(backoff_ms_first=10, backoff_ms_max=50)
    assert [backoff_ms(attempt, limits, 0.0) for attempt in range(1, 6)] == [5, 10, 20, 25, 25]


@given(attempt=st.integers(1, 10_000), unit=units, first=st.integers(1, 10**6), cap=st.integers(1, 10**9))
def test_backoff_stays_between_half_and_all_of_the_full_wait(
    attempt: int, unit: float, first: int, cap: int
) -> None:
    limits = query_limits(backoff_ms_first=first, backoff_ms_max=cap)
    full = min(first * 2 ** min(attempt - 1, 64), cap)
    assert full // 2 <= backoff_ms(attempt, limits, unit) <= full


def test_jitter_depends_on_seed_request_and_attempt_and_nothing_else() -> None:
    assert jitter_unit(1, 2, 3) == jitter_unit(1, 2, 3)
    assert len({jitter_unit(*key) for key in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]}) == 4


@given(st.integers(), st.integers(0), st.integers(0, 100))
def test_jitter_is_in_the_unit_interval(seed: int, request: int, attempt: int) -> None:
    assert 0 <= jitter_unit(seed, request, attempt) < 1


@given(st.lists(st.text(max_size=50), max_size=5), st.integers(0, 100))
def test_the_input_bound_covers_a_token_for_each_byte(texts: list[str], overhead: int) -> None:
    messages = [Message("user", text) for text in texts]
    assert input_tokens_bound(prompt_bytes(messages), overhead) >= overhead + sum(
        len(text.encode("utf-8", "surrogatepass")) for text in texts
    )


def test_the_input_bound_of_a_lone_surrogate_is_a_number() -> None:
    assert input_tokens_bound(prompt_bytes([Message("user", "\ud800")]), 0) == len("user") + 3


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_cost_is_rounded_up(price_in: int, price_out: int, tokens_in: int, tokens_out: int) -> None:
    exact = price_in * tokens_in + price_out * tokens_out
    cost = cost_microdollars(ModelPrice(price_in, price_out), tokens_in, tokens_out)
    assert (cost - 1) * 1_000_000 < exact <= cost * 1_000_000


def test_a_call_within_its_bounds_costs_no_more_than_its_reservation() -> None:
    reserved = reservation_charge(PRICE, 10, 20)
    assert reserved == Charge(calls=1, input_tokens=10, output_tokens=20, cost_microdollars=100)
    assert usage_charge(PRICE, Usage(10, 20)) == reserved


def test_usage_that_cannot_be_is_not_believed() -> None:
    for usage in (None, Usage(-1, 5), Usage(5, -1), Usage(TOKENS_PLAUSIBLE_MAX + 1, 0)):
        assert usage_charge(PRICE, usage) is None
    believed = usage_charge(PRICE, Usage(TOKENS_PLAUSIBLE_MAX, 0))
    assert believed is not None
    assert believed.cost_microdollars == math.ceil(TOKENS_PLAUSIBLE_MAX * 2)


def test_what_a_provider_does_not_state_is_a_byte_for_a_token_and_marked() -> None:
    asked = [Message("user", "Zürich?")]
    estimate = Usage(len("user") + 8, 6, True, True)
    assert usage_or_estimate((None, None), asked, "Bärn!", output_tokens_max=100) == estimate
    assert usage_or_estimate((3, 4), asked, "Bern!", output_tokens_max=100) == Usage(3, 4)
    assert usage_or_estimate((3, None), asked, "Bern!", output_tokens_max=100) == Usage(3, 5, False, True)
    assert usage_or_estimate((3, None), asked, "Bern!", thought_bytes=9, output_tokens_max=100)[1] == 14
    # No more than was allowed, however long the text.
    assert usage_or_estimate((3, None), asked, "x" * 900, output_tokens_max=100)[1] == 100
