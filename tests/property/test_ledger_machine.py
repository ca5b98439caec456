"""The ledger against an account kept apart: lists of what was charged, summed anew at every step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from rlm_wasm.errors import BudgetExceeded
from rlm_wasm.limits import BudgetLimits
from rlm_wasm.scheduler.ledger import Charge, Dimension, Ledger, View

WIDTH = len(Dimension)
Vector = tuple[int, ...]
amounts = st.integers(0, 12)
charges = st.builds(Charge, *[amounts] * WIDTH)
# Most charges touch one or two dimensions: those meet limits one at a time.
small = st.builds(
    lambda dimension, amount: Charge(**{dimension.value: amount}),
    st.sampled_from(Dimension),
    st.integers(0, 30),
)
picks = st.integers(0, 1_000)


@dataclass
class Cap:
    """A view as the test knows it: its limits (None: none of its own), and what it stands under."""

    view: View
    limits: tuple[int | None, ...]
    kept: Vector
    above: tuple[int, ...]  # the places of all that it stands under, the run's account first


@dataclass
class Entry:
    """A charge, and the place of the view that it was made under."""

    charge: Vector
    cap: int


class LedgerMachine(RuleBasedStateMachine):
    """Invariant 7: spent + reserved equals an independent model's books at every step, in every view."""

    open = Bundle("open")
    unconfirmed = Bundle("unconfirmed")

    @initialize(limits=st.tuples(*[st.integers(0, 60)] * WIDTH), kept=st.just(Charge()) | charges)
    def begin(self, limits: Vector, kept: Charge) -> None:
        kept = kept.at_most(Charge(*limits))
        self.ledger = Ledger(BudgetLimits(*limits), kept)
        self.caps = [Cap(self.ledger.root, limits, tuple(kept), ())]
        self.paid: list[Entry] = []
        self.held: dict[int, Entry] = {}
        self.doubtful: dict[int, Entry] = {}

    # The books

    def total(self, entries: list[Entry], cap: int) -> Vector:
        own = [e.charge for e in entries if e.cap == cap or cap in self.caps[e.cap].above]
        return tuple(sum(column) for column in zip(*own, strict=True)) if own else (0,) * WIDTH

    def spent(self, cap: int) -> Vector:
        return self.total([*self.paid, *self.doubtful.values()], cap)

    def reserved(self, cap: int) -> Vector:
        return self.total(list(self.held.values()), cap)

    def chain(self, cap: int) -> tuple[int, ...]:
        return (cap, *reversed(self.caps[cap].above))

    def available(self, cap: int, place: int) -> int:
        left = []
        for each in self.chain(cap):
            limit = self.caps[each].limits[place]
            if limit is not None:
                limit -= self.caps[each].kept[place]
                left.append(max(0, limit - self.spent(each)[place] - self.reserved(each)[place]))
        return min(left)

    def fits(self, charge: Charge, cap: int) -> bool:
        return all(n == 0 or n <= self.available(cap, place) for place, n in enumerate(charge))

    def agrees_with_the_refusal(self, charge: Charge, cap: int, refusal: BudgetExceeded) -> None:
        place = [d.value for d in Dimension].index(refusal.dimension)
        assert refusal.requested == charge[place] > refusal.available
        assert refusal.limit in [self.caps[each].limits[place] for each in self.chain(cap)]

    def pick(self, pick: int) -> int:
        return pick % len(self.caps)

    # What happens

    @rule(
        pick=picks,
        caps=st.dictionaries(st.sampled_from(Dimension), st.integers(0, 40), max_size=4),
        percent=st.sampled_from([100, 100, 50, 33, 1]),
    )
    def cap(self, pick: int, caps: dict[Dimension, int], percent: int) -> None:
        if len(self.caps) >= 6:
            return
        within = self.pick(pick)
        view = self.ledger.view(self.caps[within].view, caps, percent)
        limits: list[int | None] = [caps.get(dimension) for dimension in Dimension]
        if percent < 100:
            for place in range(WIDTH):
                share = self.available(within, place) * percent // 100
                own = limits[place]
                limits[place] = share if own is None else min(own, share)
        above = (*self.caps[within].above, within)
        self.caps.append(Cap(view, tuple(limits), (0,) * WIDTH, above))

    @rule()
    def free_kept(self) -> None:
        self.ledger.free_kept()
        self.caps[0].kept = (0,) * WIDTH

    @rule(target=open, charge=charges | small, pick=picks)
    def reserve(self, charge: Charge, pick: int):
        cap = self.pick(pick)
        if not self.fits(charge, cap):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.reserve(charge, self.caps[cap].view)
            self.agrees_with_the_refusal(charge, cap, caught.value)
            return multiple()
        reservation = self.ledger.reserve(charge, self.caps[cap].view)
        assert reservation not in self.held
        assert reservation not in self.doubtful
        self.held[reservation] = Entry(tuple(charge), cap)
        return reservation

    @rule(target=open, reservation=consumes(open), charge=charges | small)
    def extend(self, reservation: int, charge: Charge) -> int:
        held = self.held[reservation]
        if not self.fits(charge, held.cap):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.extend(reservation, charge)
            self.agrees_with_the_refusal(charge, held.cap, caught.value)
        else:
            self.ledger.extend(reservation, charge)
            held.charge = tuple(map(sum, zip(held.charge, charge, strict=True)))
        return reservation

    @rule(reservation=consumes(open), actual=st.none() | charges)
    def settle(self, reservation: int, actual: Charge | None) -> None:
        self.ledger.settle(reservation, actual)
        held = self.held.pop(reservation)
        self.paid.append(Entry(held.charge if actual is None else tuple(actual), held.cap))

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
        expected = bound.charge if actual is None else tuple(map(min, actual, bound.charge))
        assert tuple(billed) == expected
        self.paid.append(Entry(expected, bound.cap))

    @rule(charge=charges | small, pick=picks)
    def spend(self, charge: Charge, pick: int) -> None:
        cap = self.pick(pick)
        if not self.fits(charge, cap):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.spend(charge, self.caps[cap].view)
            self.agrees_with_the_refusal(charge, cap, caught.value)
            return
        self.ledger.spend(charge, self.caps[cap].view)
        self.paid.append(Entry(tuple(charge), cap))

    @rule(dimension=st.sampled_from(Dimension), pick=picks)
    def spend_one(self, dimension: Dimension, pick: int) -> None:
        cap = self.pick(pick)
        charge = Charge(**{dimension.value: 1})
        if not self.fits(charge, cap):
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.spend_one(dimension, self.caps[cap].view)
            self.agrees_with_the_refusal(charge, cap, caught.value)
            return
        self.ledger.spend_one(dimension, self.caps[cap].view)
        self.paid.append(Entry(tuple(charge), cap))

    @rule(charge=charges | small, pick=picks)
    def absorb(self, charge: Charge, pick: int) -> None:
        cap = self.pick(pick)
        self.ledger.absorb(charge, self.caps[cap].view)
        self.paid.append(Entry(tuple(charge), cap))

    @invariant()
    def agrees_with_the_books(self) -> None:
        assert self.ledger.open_reservations == len(self.held)
        for number, cap in enumerate(self.caps):
            spent, reserved = self.spent(number), self.reserved(number)
            doubtful = self.total(list(self.doubtful.values()), number)
            lines = self.ledger.snapshot(cap.view)
            over = []
            for place, dimension in enumerate(Dimension):
                assert self.ledger.spent(dimension, cap.view) == spent[place]
                assert self.ledger.reserved(dimension, cap.view) == reserved[place]
                assert self.ledger.unconfirmed(dimension, cap.view) == doubtful[place]
                available = self.available(number, place)
                assert self.ledger.available(dimension, cap.view) == available == lines[dimension].available
                limit = cap.limits[place]
                if limit is not None and spent[place] > limit:
                    over.append(dimension)
            assert list(cap.view.overdrawn) == over


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
