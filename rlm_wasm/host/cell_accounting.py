"""The charge of a cell in another process: no more time than its host saw, no less if it is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rlm_wasm.errors import CellCancelled, WorkerLost
from rlm_wasm.limits import CellLimits
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.commands import Done
from rlm_wasm.results import CellResult

# Twice what any guest was measured to use. A cell whose worker is gone is charged what it could have used.
FUEL_PER_NS_MAX: Final = 25
# And what memory that grew and calls of the host may be charged at once, however little time that took.
FUEL_AT_ONCE_MAX: Final = 2_000_000_000


@dataclass(slots=True)
class CellCharge:
    """A cell under way, and how long its guest has had."""

    limits: CellLimits
    since_ns: int
    executed_ns: int = 0
    waits: bool = False
    refuelled: int = 0
    # What it pays for work of its host's, which takes none of its time.
    read_fuel: int = 0

    def pause(self, now_ns: int) -> None:
        """Note that the guest waits for its host."""
        if not self.waits:
            self.executed_ns += now_ns - self.since_ns
        self.waits = True

    def wait_for_input(self, fuel: int, now_ns: int) -> None:
        """Note that the guest waits for something of an input, and what that costs it."""
        self.read_fuel += fuel
        self.pause(now_ns)

    def resume(self, now_ns: int) -> None:
        """Note that the guest runs again."""
        self.since_ns = now_ns
        self.waits = False

    def ran_ns(self, now_ns: int) -> int:
        """How long the guest has had up to now."""
        return self.executed_ns if self.waits else self.executed_ns + now_ns - self.since_ns

    def refuel(self, fuel: int, now_ns: int) -> None:
        """Note that the guest runs again, with so much more fuel."""
        self.refuelled += fuel
        self.resume(now_ns)

    def ended(self, done: Done, now_ns: int) -> Done:
        """Return a worker's report without more time or fuel than there was: its word is not believed."""
        self.pause(now_ns)
        result = done.result
        if result is None:
            return done
        fuel_max = FUEL_AT_ONCE_MAX + FUEL_PER_NS_MAX * self.executed_ns + self.read_fuel
        if result.executed_ns <= self.executed_ns and result.fuel_used <= fuel_max:
            return done
        executed_ns = min(result.executed_ns, self.executed_ns)
        fuel_used = min(result.fuel_used, fuel_max)
        return replace(done, result=result.revised(executed_ns=executed_ns, fuel_used=fuel_used))

    def lost(self, error: WorkerLost, now_ns: int) -> CellResult:
        """Return what the cell came to: its worker is gone."""
        self.pause(now_ns)
        used = FUEL_PER_NS_MAX * self.executed_ns + self.read_fuel
        fuel = min(self.limits.fuel_max + self.refuelled, used)
        return lost_result(error, fuel, executed_ns=self.executed_ns)


def lost_result(error: WorkerLost, fuel_used: int, *, executed_ns: int = 0) -> CellResult:
    """Return the result of a cell whose worker is gone."""
    return CellResult(
        error=error, fuel_used=fuel_used, executed_ns=executed_ns, session_state=SessionState.LOST
    )


def unbegun_result() -> CellResult:
    """Return the result of a cell that was given up before its guest was told of it."""
    return CellResult(error=CellCancelled("the cell was cancelled before it began"))
