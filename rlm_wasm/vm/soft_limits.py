"""The decision when a cell is asked to end, shortly before it has to: pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rlm_wasm.errors import CellCancelled, DeadlineExceeded, FuelExhausted, GuestError
from rlm_wasm.limits import CellLimits
from rlm_wasm.vm.interrupt import Reason

# What is kept for `finally` blocks and the traceback: an eighth, but never more than these.
_SHARE: Final = 8
_FUEL_KEPT_MAX: Final = 1_000_000_000
_NS_KEPT_MAX: Final = 500_000_000
# Slices are short enough that a soft limit is noticed well before the hard one.
_SLICES_A_CELL: Final = 64
_SLICE_FUEL_MIN: Final = 500_000


@dataclass(frozen=True, slots=True)
class SoftLimits:
    """The points at which one cell is interrupted, from its hard limits."""

    fuel_max: int
    wall_ms_max: int
    fuel: int
    wall_ns: int

    @staticmethod
    def of(limits: CellLimits) -> SoftLimits:
        """Return the soft limits under `limits`."""
        # By the numbers: each cell comes with limits of its own, of the same values as a rule.
        return _soft_limits(limits.fuel_max, limits.wall_ms_max)

    @property
    def fuel_kept(self) -> int:
        """What is left at the point where fuel interrupts the cell."""
        return self.fuel_max - self.fuel

    def reached(
        self, *, fuel_used: int | None, executed_ns: int, cancelled: bool
    ) -> tuple[Reason, GuestError] | None:
        """Return why the cell is to be interrupted now, if it is.

        `fuel_used` is None at a stop that fuel did not cause: interrupting there would depend on
        time, and the same program has to end at the same fuel.
        """
        if cancelled:
            return Reason.CANCELLED, CellCancelled("the cell was cancelled")
        if fuel_used is not None and fuel_used >= self.fuel:
            used_all = f"the cell used all of its {self.fuel_max} fuel"
            return Reason.FUEL, FuelExhausted(used_all, limit=self.fuel_max)
        if executed_ns >= self.wall_ns:
            too_long = f"the cell ran longer than {self.wall_ms_max} ms"
            return Reason.DEADLINE, DeadlineExceeded(too_long, limit=self.wall_ms_max)
        return None


@lru_cache(maxsize=64)
def _soft_limits(fuel_max: int, wall_ms_max: int) -> SoftLimits:
    wall_ns = wall_ms_max * 1_000_000
    return SoftLimits(
        fuel_max=fuel_max,
        wall_ms_max=wall_ms_max,
        fuel=fuel_max - min(fuel_max // _SHARE, _FUEL_KEPT_MAX),
        wall_ns=wall_ns - min(wall_ns // _SHARE, _NS_KEPT_MAX),
    )


@lru_cache(maxsize=64)
def slice_fuel(fuel_max: int, slice_max: int) -> int:
    """Return the fuel between two yields of a cell with `fuel_max`."""
    return min(slice_max, max(_SLICE_FUEL_MIN, fuel_max // _SLICES_A_CELL))
