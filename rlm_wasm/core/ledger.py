"""The account of one run: reserve before, settle after, all dimensions or none.

One ledger is shared by every depth of a run. Copies of a remainder would overspend as soon as two
children run together, so nobody ever gets one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rlm_wasm.core.limits import BudgetLimits
from rlm_wasm.errors import BudgetExceeded, InternalError


class Dimension(StrEnum):
    """What can be used up. The value plus ``_max`` is the field in BudgetLimits."""

    CALLS = "calls"
    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST = "cost_microdollars"
    ITERATIONS = "iterations"
    FUEL = "fuel"


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount in every dimension, none of them negative."""

    calls: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microdollars: int = 0
    iterations: int = 0
    fuel: int = 0

    def __post_init__(self) -> None:
        for dimension in Dimension:
            if self[dimension] < 0:
                raise InternalError(f"a charge of {self[dimension]} {dimension}")

    def __getitem__(self, dimension: Dimension) -> int:
        amount: int = getattr(self, dimension.value)
        return amount

    def plus(self, other: Charge) -> Charge:
        """Return the sum in every dimension."""
        return Charge(**{d.value: self[d] + other[d] for d in Dimension})

    def at_most(self, other: Charge) -> Charge:
        """Return the smaller amount in every dimension."""
        return Charge(**{d.value: min(self[d], other[d]) for d in Dimension})


@dataclass(frozen=True, slots=True)
class DimensionView:
    """One line of the account. After an overdraft `spent` exceeds `limit`, and `available` is 0."""

    limit: int
    spent: int
    reserved: int
    available: int


@dataclass(slots=True)
class _Account:
    """One dimension's numbers."""

    limit: int
    spent: int = 0
    reserved: int = 0
    unconfirmed: int = 0  # the part of `spent` that a late result may still correct

    @property
    def available(self) -> int:
        return max(0, self.limit - self.spent - self.reserved)


@dataclass(slots=True)
class Ledger:
    """Account for one run's limits.

    A reservation is a number. It ends by `settle`, `release` or `settle_unconfirmed`, once: a second
    end is an InternalError and changes nothing.
    """

    limits: BudgetLimits
    _accounts: dict[Dimension, _Account] = field(init=False)
    _open: dict[int, Charge] = field(init=False, default_factory=dict)
    _unconfirmed: dict[int, Charge] = field(init=False, default_factory=dict)
    _next: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        self._accounts = {d: _Account(getattr(self.limits, f"{d.value}_max")) for d in Dimension}

    def reserve(self, charge: Charge) -> int:
        """Reserve all of `charge` and return its number, or raise BudgetExceeded and reserve nothing."""
        self.refuse_unless_fits(charge)
        reservation = self._next
        self._next += 1
        self._open[reservation] = charge
        for dimension, account in self._accounts.items():
            account.reserved += charge[dimension]
        return reservation

    def settle(self, reservation: int, actual: Charge | None) -> None:
        """Turn a reservation into spend; unknown usage (`None`) costs the whole reservation.

        `actual` may exceed the reservation, even the limit: it has happened, so it is counted, and
        from then on `reserve` refuses.
        """
        charge = self._close(reservation)
        self.absorb(charge if actual is None else actual)

    def release(self, reservation: int) -> None:
        """Give a reservation back: what it stood for did not happen."""
        self._close(reservation)

    def settle_unconfirmed(self, reservation: int) -> None:
        """Spend a reservation whose bill is unknown and may come later, through `correct`."""
        charge = self._close(reservation)
        self._unconfirmed[reservation] = charge
        for dimension, account in self._accounts.items():
            account.spent += charge[dimension]
            account.unconfirmed += charge[dimension]

    def correct(self, reservation: int, actual: Charge | None) -> Charge:
        """Replace unconfirmed spend by the late bill, downward only, and return what is charged now.

        None confirms the whole reservation. A bill above the reservation cannot raise the spend:
        the run may have handed out the rest by now, or have ended.
        """
        charge = self._unconfirmed.pop(reservation, None)
        if charge is None:
            raise InternalError(f"reservation {reservation} is not unconfirmed")
        billed = charge if actual is None else actual.at_most(charge)
        for dimension, account in self._accounts.items():
            account.spent -= charge[dimension] - billed[dimension]
            account.unconfirmed -= charge[dimension]
        return billed

    def spend(self, charge: Charge) -> None:
        """Reserve and settle at once, or raise BudgetExceeded and spend nothing."""
        self.refuse_unless_fits(charge)
        self.absorb(charge)

    def refuse_unless_fits(self, charge: Charge) -> None:
        """Raise BudgetExceeded for the first dimension in which `charge` does not fit.

        An overdrawn dimension refuses every charge that touches it, and only those.
        """
        for dimension, account in self._accounts.items():
            if charge[dimension] > account.available:
                raise BudgetExceeded(
                    dimension.value,
                    requested=charge[dimension],
                    available=account.available,
                    limit=account.limit,
                )

    def absorb(self, charge: Charge) -> None:
        """Count what has already happened, within the limit or beyond it."""
        for dimension, account in self._accounts.items():
            account.spent += charge[dimension]

    def available(self, dimension: Dimension) -> int:
        """Return what a reservation may still ask for."""
        return self._accounts[dimension].available

    def spent(self, dimension: Dimension) -> int:
        """Return what is spent, unconfirmed spend included."""
        return self._accounts[dimension].spent

    def reserved(self, dimension: Dimension) -> int:
        """Return what open reservations hold."""
        return self._accounts[dimension].reserved

    def unconfirmed(self, dimension: Dimension) -> int:
        """Return the part of the spend that no bill has confirmed."""
        return self._accounts[dimension].unconfirmed

    @property
    def open_reservations(self) -> int:
        """How many reservations have not ended."""
        return len(self._open)

    @property
    def overdrawn(self) -> tuple[Dimension, ...]:
        """The dimensions whose spend is above the limit."""
        return tuple(d for d, account in self._accounts.items() if account.spent > account.limit)

    def snapshot(self) -> dict[Dimension, DimensionView]:
        """Return the whole account, a line per dimension, in the order of Dimension."""
        return {
            d: DimensionView(a.limit, a.spent, a.reserved, a.available) for d, a in self._accounts.items()
        }

    def _close(self, reservation: int) -> Charge:
        charge = self._open.pop(reservation, None)
        if charge is None:
            raise InternalError(f"reservation {reservation} is not open")
        for dimension, account in self._accounts.items():
            account.reserved -= charge[dimension]
        return charge
