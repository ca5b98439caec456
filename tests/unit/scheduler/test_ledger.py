"""The account of one run."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.limits import BudgetLimits
from rlm_wasm.scheduler.ledger import Charge, Dimension, DimensionView, Ledger
from tests.support.core_facts import budget


def test_every_dimension_is_a_limit_of_the_budget_and_a_field_of_a_charge() -> None:
    assert {f"{d.value}_max" for d in Dimension} == {f.name for f in fields(BudgetLimits)}
    assert [d.value for d in Dimension] == list(Charge._fields)


def test_a_reservation_that_fits_nowhere_reserves_nowhere() -> None:
    ledger = Ledger(budget(calls_max=5, output_tokens_max=10))
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve(Charge(calls=1, output_tokens=11))
    assert (caught.value.dimension, caught.value.requested) == ("output_tokens", 11)
    assert (caught.value.available, caught.value.limit) == (10, 10)
    assert ledger.reserved(Dimension.CALLS) == 0
    assert ledger.open_reservations == 0


def test_the_hint_names_the_field_of_the_policy() -> None:
    ledger = Ledger(budget(cost_microdollars_max=1))
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve(Charge(cost_microdollars=2))
    assert caught.value.hint == "raise `budget.cost_microdollars_max` in the policy"


def test_open_reservations_count_against_the_limit() -> None:
    ledger = Ledger(budget(calls_max=2))
    ledger.reserve(Charge(calls=1))
    ledger.reserve(Charge(calls=1))
    with pytest.raises(BudgetExceeded):
        ledger.reserve(Charge(calls=1))


def test_a_settlement_below_the_reservation_gives_the_rest_back() -> None:
    ledger = Ledger(budget(output_tokens_max=100))
    ledger.settle(ledger.reserve(Charge(output_tokens=80)), Charge(output_tokens=30))
    assert ledger.snapshot()[Dimension.OUTPUT_TOKENS] == DimensionView(
        limit=100, spent=30, reserved=0, available=70
    )


def test_unknown_usage_costs_the_whole_reservation() -> None:
    ledger = Ledger(budget(output_tokens_max=100))
    ledger.settle(ledger.reserve(Charge(output_tokens=80)), None)
    assert ledger.spent(Dimension.OUTPUT_TOKENS) == 80


def test_an_overdraft_is_recorded_and_refuses_every_later_charge_of_its_dimension() -> None:
    ledger = Ledger(budget(output_tokens_max=100))
    ledger.settle(ledger.reserve(Charge(output_tokens=80)), Charge(output_tokens=130))
    assert ledger.overdrawn == (Dimension.OUTPUT_TOKENS,)
    assert ledger.available(Dimension.OUTPUT_TOKENS) == 0
    with pytest.raises(BudgetExceeded):
        ledger.reserve(Charge(output_tokens=1))
    ledger.reserve(Charge(calls=1))


def test_an_overshoot_within_the_limit_is_no_overdraft() -> None:
    ledger = Ledger(budget(output_tokens_max=100))
    ledger.settle(ledger.reserve(Charge(output_tokens=10)), Charge(output_tokens=100))
    assert ledger.overdrawn == ()


@pytest.mark.parametrize("second", ["settle", "release", "settle_unconfirmed"])
@pytest.mark.parametrize("first", ["settle", "release", "settle_unconfirmed"])
def test_a_reservation_ends_once(first: str, second: str) -> None:
    ledger = Ledger(budget())
    reservation = ledger.reserve(Charge(calls=3))

    def end(how: str) -> None:
        if how == "settle":
            ledger.settle(reservation, None)
        else:
            getattr(ledger, how)(reservation)

    end(first)
    before = ledger.snapshot()
    with pytest.raises(InternalError):
        end(second)
    assert ledger.snapshot() == before


def test_a_late_bill_corrects_downward() -> None:
    ledger = Ledger(budget())
    reservation = ledger.reserve(Charge(calls=1, output_tokens=80))
    ledger.settle_unconfirmed(reservation)
    assert ledger.unconfirmed(Dimension.OUTPUT_TOKENS) == 80
    assert ledger.correct(reservation, Charge(calls=1, output_tokens=30)) == Charge(calls=1, output_tokens=30)
    assert ledger.spent(Dimension.OUTPUT_TOKENS) == 30
    assert ledger.unconfirmed(Dimension.OUTPUT_TOKENS) == 0


def test_a_late_bill_never_corrects_upward() -> None:
    ledger = Ledger(budget())
    reservation = ledger.reserve(Charge(input_tokens=5, output_tokens=80))
    ledger.settle_unconfirmed(reservation)
    billed = ledger.correct(reservation, Charge(input_tokens=4, output_tokens=8_000))
    assert billed == Charge(input_tokens=4, output_tokens=80)
    assert ledger.spent(Dimension.OUTPUT_TOKENS) == 80


def test_a_late_result_without_a_bill_confirms_the_whole_reservation() -> None:
    ledger = Ledger(budget())
    reservation = ledger.reserve(Charge(output_tokens=80))
    ledger.settle_unconfirmed(reservation)
    ledger.correct(reservation, None)
    assert ledger.spent(Dimension.OUTPUT_TOKENS) == 80
    assert ledger.unconfirmed(Dimension.OUTPUT_TOKENS) == 0
    with pytest.raises(InternalError):
        ledger.correct(reservation, None)


def test_what_happened_is_counted_beyond_the_limit() -> None:
    ledger = Ledger(budget(fuel_max=10))
    ledger.absorb(Charge(fuel=25))
    assert ledger.spent(Dimension.FUEL) == 25
    assert ledger.overdrawn == (Dimension.FUEL,)


def test_what_has_not_happened_is_refused_beyond_the_limit() -> None:
    ledger = Ledger(budget(iterations_max=1))
    ledger.spend(Charge(iterations=1))
    with pytest.raises(BudgetExceeded):
        ledger.spend(Charge(iterations=1))
    assert ledger.spent(Dimension.ITERATIONS) == 1


def test_a_negative_charge_cannot_be_counted() -> None:
    ledger = Ledger(budget())
    for use in (ledger.reserve, ledger.spend, ledger.absorb):
        with pytest.raises(InternalError, match="-1 output_tokens"):
            use(Charge(output_tokens=-1))
    assert ledger.snapshot() == Ledger(budget()).snapshot()
