"""The ledger against an account kept apart: lists of what was charged, summed anew at every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from rlm_wasm.core.ledger import Charge, Dimension, Ledger
from rlm_wasm.core.limits import BudgetLimits
from rlm_wasm.errors import BudgetExceeded

WIDTH = len(Dimension)
amounts = st.integers(0, 12)
charges = st.builds(Charge, *[amounts] * WIDTH)
Vector = tuple[int, ...]


def total(vectors: list[Vector]) -> Vector:
    return tuple(sum(column) for column in zip(*vectors, strict=True)) if vectors else (0,) * WIDTH


class LedgerMachine(RuleBasedStateMachine):
    """Invariant 7: spent + reserved equals an independent model's books at every step."""

    open = Bundle("open")
    unconfirmed = Bundle("unconfirmed")

    @initialize(limits=st.tuples(*[st.integers(0, 60)] * WIDTH))
    def begin(self, limits: Vector) -> None:
        self.limits = limits
        self.ledger = Ledger(BudgetLimits(*limits))
        self.paid: list[Vector] = []
        self.held: dict[int, Vector] = {}
        self.doubtful: dict[int, Vector] = {}

    def books(self) -> tuple[Vector, Vector]:
        return total(self.paid + list(self.doubtful.values())), total(list(self.held.values()))

    def fits(self, charge: Charge) -> bool:
        spent, reserved = self.books()
        rows = zip(tuple(charge), spent, reserved, self.limits, strict=True)
        return all(c == 0 or s + r + c <= limit for c, s, r, limit in rows)

    def agrees_with_the_refusal(self, charge: Charge, refusal: BudgetExceeded) -> None:
        place = [d.value for d in Dimension].index(refusal.dimension)
        spent, reserved = self.books()
        assert refusal.requested == tuple(charge)[place]
        assert refusal.limit == self.limits[place]
        assert refusal.available == max(0, refusal.limit - spent[place] - reserved[place])
        assert refusal.available < refusal.requested

    @rule(target=open, charge=charges)
    def reserve(self, charge: Charge):
        if not self.fits(charge):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.reserve(charge)
            self.agrees_with_the_refusal(charge, caught.value)
            return multiple()
        reservation = self.ledger.reserve(charge)
        assert reservation not in self.held
        assert reservation not in self.doubtful
        self.held[reservation] = tuple(charge)
        return reservation

    @rule(reservation=consumes(open), actual=st.none() | charges)
    def settle(self, reservation: int, actual: Charge | None) -> None:
        self.ledger.settle(reservation, actual)
        held = self.held.pop(reservation)
        self.paid.append(held if actual is None else tuple(actual))

    @rule(reservation=consumes(open))
    def release(self, reservation: int) -> None:
        self.ledger.release(reservation)
        del self.held[reservation]

    @rule(target=unconfirmed, reservation=consumes(open))
    def settle_unconfirmed(self, reservation: int) -> int:
        self.ledger.settle_unconfirmed(reservation)
        self.doubtful[reservation] = self.held.pop(reservation)
        return reservation

    @rule(reservation=consumes(unconfirmed), actual=st.none() | charges)
    def correct(self, reservation: int, actual: Charge | None) -> None:
        billed = self.ledger.correct(reservation, actual)
        bound = self.doubtful.pop(reservation)
        expected = bound if actual is None else tuple(map(min, tuple(actual), bound))
        assert tuple(billed) == expected
        self.paid.append(expected)

    @rule(charge=charges)
    def spend(self, charge: Charge) -> None:
        if not self.fits(charge):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.spend(charge)
            self.agrees_with_the_refusal(charge, caught.value)
            return
        self.ledger.spend(charge)
        self.paid.append(tuple(charge))

    @rule(charge=charges)
    def absorb(self, charge: Charge) -> None:
        self.ledger.absorb(charge)
        self.paid.append(tuple(charge))

    @invariant()
    def agrees_with_the_books(self) -> None:
        spent, reserved = self.books()
        doubtful = total(list(self.doubtful.values()))
        assert self.ledger.open_reservations == len(self.held)
        over = []
        for place, (dimension, view) in enumerate(self.ledger.snapshot().items()):
            assert (view.limit, view.spent, view.reserved) == (
                self.limits[place],
                spent[place],
                reserved[place],
            )
            assert view.available == max(0, self.limits[place] - spent[place] - reserved[place])
            assert self.ledger.unconfirmed(dimension) == doubtful[place]
            if spent[place] > self.limits[place]:
                over.append(dimension)
        assert list(self.ledger.overdrawn) == over


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
