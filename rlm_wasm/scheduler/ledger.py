"""The account of one run: reserve before, settle after, all dimensions or none.

One ledger is shared by every depth of a run. Copies of a remainder would overspend as soon as two
children run together, so nobody ever gets one: a child's own budget is a *view*, a cap on what its
part of the tree may use of the same ledger. Every charge is checked against, and counted in, each
view that it stands under, and the run's account itself.

What is *kept* of the account is within its limits and fits no charge, until `free_kept`: for the last
question of a run, which nothing before it can spend.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.limits import BudgetLimits


class Dimension(StrEnum):
    """What can be used up. The value plus ``_max`` is the field in BudgetLimits."""

    CALLS = "calls"
    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST = "cost_microdollars"
    ITERATIONS = "iterations"
    FUEL = "fuel"
    CHILDREN = "children"
    OBSERVATION_BYTES = "observation_bytes"


DIMENSIONS: Final = tuple(Dimension)
_PLACE: Final = {dimension: place for place, dimension in enumerate(DIMENSIONS)}
# Beyond every limit a policy can hold: the cap of a view in a dimension that it does not cap.
_UNCAPPED: Final = 1 << 62


class Charge(NamedTuple):
    """An amount in every dimension, none of them negative; fields in the order of Dimension."""

    calls: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microdollars: int = 0
    iterations: int = 0
    fuel: int = 0
    children: int = 0
    observation_bytes: int = 0

    def plus(self, other: Charge) -> Charge:
        """Return the sum in every dimension."""
        return Charge(*[mine + theirs for mine, theirs in zip(self, other, strict=True)])

    def at_most(self, other: Charge) -> Charge:
        """Return the smaller amount in every dimension."""
        return Charge(*map(min, self, other))


NOTHING: Final = Charge()


class DimensionView(NamedTuple):
    """One line of the account. After an overdraft `spent` exceeds `limit`, and `available` is 0.

    What is kept is not available, so the three may come to less than the limit.
    """

    limit: int
    spent: int
    reserved: int
    available: int


class View:
    """What one part of the tree may use, and has used, of the ledger. Changed by the Ledger alone."""

    __slots__ = ("chain", "limit", "over", "reserved", "room", "spent", "unconfirmed")

    def __init__(self, limit: list[int], within: View | None, kept: Charge = NOTHING) -> None:
        self.limit: Final = limit
        self.room: Final = [
            most - less for most, less in zip(limit, kept, strict=True)
        ]  # without what is kept
        self.spent: Final = [0] * len(limit)
        self.reserved: Final = [0] * len(limit)
        self.unconfirmed: Final = [0] * len(limit)  # the part of `spent` that a late result may correct
        self.over = False  # whether `spent` was ever above `limit`
        # Itself first, the run's own account last: every charge is checked and counted in all of them.
        self.chain: Final[tuple[View, ...]] = (self, *(within.chain if within else ()))

    @property
    def overdrawn(self) -> tuple[Dimension, ...]:
        """The dimensions whose spend is above this view's own limit."""
        if not self.over:
            return ()
        rows = zip(DIMENSIONS, self.spent, self.limit, strict=True)
        return tuple(dimension for dimension, spent, limit in rows if spent > limit)

    def line(self, place: int) -> DimensionView:
        """Return one dimension of this view alone."""
        limit, spent, reserved = self.limit[place], self.spent[place], self.reserved[place]
        return DimensionView(limit, spent, reserved, max(0, self.room[place] - spent - reserved))

    def tightest(self, place: int) -> DimensionView:
        """Return the line with the least left, of this view and all that it stands under."""
        return min((view.line(place) for view in self.chain), key=lambda line: line.available)


class Ledger:
    """Account for one run's limits.

    A reservation is a number. It ends by `settle`, `release` or `settle_unconfirmed`, once: a second
    end is an InternalError and changes nothing. Without a view, a charge is the run's own. `kept` fits no
    charge until it is freed.
    """

    def __init__(self, limits: BudgetLimits, kept: Charge = NOTHING) -> None:
        self.root: Final = View([getattr(limits, f"{d.value}_max") for d in DIMENSIONS], None, kept)
        self._open: dict[int, tuple[Charge, View]] = {}
        self._unconfirmed: dict[int, tuple[Charge, View]] = {}
        self._next = 1

    def view(self, within: View, caps: Mapping[Dimension, int], share_percent: int = 100) -> View:
        """Return a cap on the same ledger: `caps`, and a share of what is available in `within` now."""
        limit = [_UNCAPPED] * len(DIMENSIONS)
        for dimension, cap in caps.items():
            limit[_PLACE[dimension]] = cap
        if share_percent < 100:
            for place in range(len(DIMENSIONS)):
                share = within.tightest(place).available * share_percent // 100
                limit[place] = min(limit[place], share)
        return View(limit, within)

    def free_kept(self) -> None:
        """Let what was kept be charged like everything else from now on."""
        self.root.room[:] = self.root.limit

    def reserve(self, charge: Charge, view: View | None = None) -> int:
        """Reserve all of `charge` and return its number, or raise BudgetExceeded and reserve nothing."""
        view = view or self.root
        self.refuse_unless_fits(charge, view)
        reservation = self._next
        self._next += 1
        self._open[reservation] = (charge, view)
        for each in view.chain:
            _add(each.reserved, charge)
        return reservation

    def extend(self, reservation: int, charge: Charge) -> None:
        """Reserve more under the same number, or raise BudgetExceeded and change nothing."""
        entry = self._open.get(reservation)
        if entry is None:
            raise InternalError(f"reservation {reservation} is not open")
        held, view = entry
        self.refuse_unless_fits(charge, view)
        self._open[reservation] = (held.plus(charge), view)
        for each in view.chain:
            _add(each.reserved, charge)

    def settle(self, reservation: int, actual: Charge | None) -> None:
        """Turn a reservation into spend; unknown usage (`None`) costs the whole reservation.

        `actual` may exceed the reservation, even the limit: it has happened, so it is counted, and
        from then on `reserve` refuses.
        """
        charge, view = self._close(reservation)
        self.absorb(charge if actual is None else actual, view)

    def release(self, reservation: int) -> None:
        """Give a reservation back: what it stood for did not happen."""
        self._close(reservation)

    def settle_unconfirmed(self, reservation: int) -> None:
        """Spend a reservation whose bill is unknown and may come later, through `correct`."""
        charge, view = self._unconfirmed[reservation] = self._close(reservation)
        self.absorb(charge, view)
        for each in view.chain:
            _add(each.unconfirmed, charge)

    def correct(self, reservation: int, actual: Charge | None) -> Charge:
        """Replace unconfirmed spend by the late bill, downward only, and return what is charged now.

        None confirms the whole reservation. A bill above the reservation cannot raise the spend:
        the run may have handed out the rest by now, or have ended.
        """
        entry = self._unconfirmed.pop(reservation, None)
        if entry is None:
            raise InternalError(f"reservation {reservation} is not unconfirmed")
        charge, view = entry
        billed = charge if actual is None else actual.at_most(charge)
        for each in view.chain:
            _take(each.spent, charge)
            _add(each.spent, billed)
            _take(each.unconfirmed, charge)
        return billed

    def spend(self, charge: Charge, view: View | None = None) -> None:
        """Reserve and settle at once, or raise BudgetExceeded and spend nothing."""
        self.refuse_unless_fits(charge, view)
        self.absorb(charge, view)

    def spend_one(self, dimension: Dimension, view: View) -> None:
        """Do what `spend` does, for an amount of 1 in one dimension: every request passes here."""
        place = _PLACE[dimension]
        for each in view.chain:
            if each.room[place] - each.spent[place] - each.reserved[place] < 1:
                raise _refusal(each, place, 1)
        for each in view.chain:
            each.spent[place] += 1

    def refuse_unless_fits(self, charge: Charge, view: View | None = None) -> None:
        """Raise BudgetExceeded for the first dimension in which `charge` does not fit.

        An overdrawn dimension refuses every charge that touches it, and only those.
        """
        for each in (view or self.root).chain:
            for place, amount in enumerate(charge):
                if amount:
                    if amount < 0:
                        raise InternalError(f"a charge of {amount} {DIMENSIONS[place]}")
                    if amount > each.room[place] - each.spent[place] - each.reserved[place]:
                        raise _refusal(each, place, amount)

    def refusal(self, dimension: Dimension, view: View) -> BudgetExceeded:
        """Return what an amount of 1 is refused with once nothing is left of a dimension."""
        place = _PLACE[dimension]
        tightest = min(view.chain, key=lambda each: each.line(place).available)
        return _refusal(tightest, place, 1, available=0)

    def absorb(self, charge: Charge, view: View | None = None) -> None:
        """Count what has already happened, within the limit or beyond it."""
        for each in (view or self.root).chain:
            spent, limit = each.spent, each.limit
            for place, amount in enumerate(charge):
                if amount:
                    if amount < 0:
                        raise InternalError(f"a charge of {amount} {DIMENSIONS[place]}")
                    spent[place] += amount
                    if spent[place] > limit[place]:
                        each.over = True

    def available(self, dimension: Dimension, view: View | None = None) -> int:
        """Return what a reservation may still ask for."""
        return (view or self.root).tightest(_PLACE[dimension]).available

    def spent(self, dimension: Dimension, view: View | None = None) -> int:
        """Return what is spent, unconfirmed spend included."""
        return (view or self.root).spent[_PLACE[dimension]]

    def reserved(self, dimension: Dimension, view: View | None = None) -> int:
        """Return what open reservations hold."""
        return (view or self.root).reserved[_PLACE[dimension]]

    def unconfirmed(self, dimension: Dimension, view: View | None = None) -> int:
        """Return the part of the spend that no bill has confirmed."""
        return (view or self.root).unconfirmed[_PLACE[dimension]]

    @property
    def open_reservations(self) -> int:
        """How many reservations have not ended."""
        return len(self._open)

    @property
    def overdrawn(self) -> tuple[Dimension, ...]:
        """The dimensions whose spend is above the run's limit."""
        return self.root.overdrawn

    def snapshot(self, view: View | None = None) -> dict[Dimension, DimensionView]:
        """Return the whole account, a line per dimension: under a view, the line with the least left."""
        seen = view or self.root
        return {dimension: seen.tightest(place) for place, dimension in enumerate(DIMENSIONS)}

    def _close(self, reservation: int) -> tuple[Charge, View]:
        entry = self._open.pop(reservation, None)
        if entry is None:
            raise InternalError(f"reservation {reservation} is not open")
        charge, view = entry
        for each in view.chain:
            _take(each.reserved, charge)
        return entry


def _add(amounts: list[int], charge: Charge) -> None:
    for place, amount in enumerate(charge):
        if amount:
            amounts[place] += amount


def _take(amounts: list[int], charge: Charge) -> None:
    for place, amount in enumerate(charge):
        if amount:
            amounts[place] -= amount


def _refusal(view: View, place: int, amount: int, available: int | None = None) -> BudgetExceeded:
    line = view.line(place)
    return BudgetExceeded(
        DIMENSIONS[place].value,
        requested=amount,
        available=line.available if available is None else available,
        limit=line.limit,
        kept=line.limit - view.room[place],
    )
