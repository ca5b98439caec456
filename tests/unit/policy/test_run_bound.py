"""The most that a run may use and cost, told before it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import BudgetExceeded
from rlm_wasm.limits import ModelPrice
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.run_bound import RunBound
from rlm_wasm.scheduler.ledger import DIMENSIONS, Ledger
from rlm_wasm.scheduler.pricing import reservation_charge

STRICT = Policy.builtin("strict")


def test_the_budget_of_money_bounds_a_run_whose_tokens_could_cost_more() -> None:
    bound = STRICT.replace(budget={"cost_microdollars_max": 10}).run_bound()
    assert bound.cost_microdollars == bound.at_most["cost_microdollars"] == 10
    assert bound.keys["cost_microdollars"] == ("budget.cost_microdollars_max",)
    assert (bound.at_most["calls"], bound.wall_ms) == (STRICT.budget.calls_max, STRICT.run.wall_ms_max)


def test_tokens_bound_it_where_they_cost_less_at_the_dearest_price() -> None:
    budget = {"input_tokens_max": 1_000_000, "output_tokens_max": 100_000, "calls_max": 50}
    query = {"output_tokens_max": 1_000, "output_tokens_retry_max": 0}
    bound = STRICT.replace(budget={**budget, "cost_microdollars_max": 10**9}, query=query).run_bound()
    assert bound.at_most["output_tokens"] == 50 * 1_000
    assert bound.keys["output_tokens"] == ("budget.calls_max", "query.output_tokens_max")
    # 1.25 and 10 dollars for a million, and each of 50 calls rounded up.
    assert bound.cost_microdollars == 1_250_000 + 500_000 + 50
    assert bound.keys["cost_microdollars"] == (
        "budget.input_tokens_max",
        "budget.calls_max",
        "query.output_tokens_max",
        "models.prices",
    )


def test_an_answer_that_may_be_asked_for_again_longer_counts_at_its_length() -> None:
    query = {"output_tokens_max": 1_000, "output_tokens_retry_max": 3_000}
    bound = STRICT.replace(budget={"calls_max": 50}, query=query).run_bound()
    assert bound.at_most["output_tokens"] == 50 * 3_000
    assert bound.keys["output_tokens"] == ("budget.calls_max", "query.output_tokens_retry_max")


def test_free_models_cost_nothing() -> None:
    free = {spec: "free" for spec in ("openai:gpt-5", "openai:gpt-5-mini")}
    assert STRICT.replace(models={"prices": free}).run_bound().cost_microdollars == 0


def test_every_dimension_of_the_ledger_has_its_bound_and_its_key() -> None:
    bound = STRICT.run_bound()
    assert list(bound.at_most) == [dimension.value for dimension in DIMENSIONS]
    assert bound.keys.keys() == {*bound.at_most, "wall_ms"}


_PRICES = st.lists(
    st.builds(ModelPrice, st.integers(0, 3_000_000), st.integers(0, 3_000_000)), min_size=1, max_size=3
)
_CALLS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 1)), max_size=20)


@settings(deadline=None)
@given(
    prices=_PRICES,
    calls=_CALLS,
    calls_max=st.integers(1, 8),
    tokens=st.tuples(st.integers(1, 200), st.integers(1, 60)),
    cost=st.integers(0, 300),
)
def test_no_order_of_calls_brings_the_ledger_above_it(
    prices: list[ModelPrice],
    calls: list[tuple[int, int, int]],
    calls_max: int,
    tokens: tuple[int, int],
    cost: int,
) -> None:
    budget = replace(
        STRICT.budget,
        calls_max=calls_max,
        input_tokens_max=tokens[0],
        output_tokens_max=tokens[1],
        cost_microdollars_max=cost,
    )
    query = replace(STRICT.query, output_tokens_max=7, output_tokens_retry_max=11)
    bound = RunBound.of(budget, query, STRICT.run, prices)
    ledger = Ledger(budget)
    for model, input_tokens, longer in calls:
        charge = reservation_charge(prices[model % len(prices)], input_tokens, 11 if longer else 7)
        try:
            ledger.settle(ledger.reserve(charge), None)
        except BudgetExceeded:
            continue
    spent = dict(zip(bound.at_most, ledger.root.spent, strict=True))
    assert all(spent[name] <= most for name, most in bound.at_most.items()), (spent, bound)
