"""The upkeep of a session between two cells, in steps: how long it took, and whether to go on."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic_ns
from typing import Final, TypeVar

from rlm_wasm.errors import CellCancelled, DeadlineExceeded
from rlm_wasm.limits import CellLimits
from rlm_wasm.vm.steps import SLICE, Step

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
# What a step copies at most: a millisecond or less.
STEP_BYTES: Final = 2 << 20
# Fuel for keeping a state. By the size of the memory: which pages were written is the kernel's business too,
# and the same program has to end at the same fuel. What is copied costs the cell its time.
FUEL_PER_KEPT_STATE: Final = 100_000
BYTES_A_FUEL: Final = 64


class Upkeep:
    """One piece of work on a session's state, under the limits of the cell that it is for, if any."""

    def __init__(self, limits: CellLimits | None = None) -> None:
        self._limits: Final = limits
        self.cancel_wanted = False
        # What the cell that follows begins with.
        self.executed_ns = 0
        self.fuel = 0

    def run(self, steps: Steps[_T]) -> Generator[Step, bytes | None, _T]:
        """Take the steps, with a turn for others after each.

        Raises:
            DeadlineExceeded: it takes longer than the cell may.
            CellCancelled: it is not wanted any more.
        """
        try:
            while True:
                began = monotonic_ns()
                try:
                    next(steps)
                except StopIteration as ended:
                    value: _T = ended.value
                    return value
                finally:
                    self.executed_ns += monotonic_ns() - began
                self._check()
                yield SLICE
                self._check()
        finally:
            steps.close()

    def charge_for(self, memory_bytes: int) -> None:
        """Note what keeping the state of such a memory costs in fuel."""
        self.fuel += FUEL_PER_KEPT_STATE + memory_bytes // BYTES_A_FUEL

    def _check(self) -> None:
        if self.cancel_wanted:
            raise CellCancelled("the cell was cancelled")
        limits = self._limits
        if limits is not None and self.executed_ns > limits.wall_ms_max * 1_000_000:
            raise DeadlineExceeded(
                f"keeping the state before the cell took longer than {limits.wall_ms_max} ms",
                limit=limits.wall_ms_max,
            )
