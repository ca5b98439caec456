"""One hostile cell in a session that had something to lose, and what has to hold afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm import operations
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.session import Session, drive
from tests.support.sandbox_facts import MIB, cell_limits, completed, echo

MEMORY_BYTES = 64 * MIB
# Under half a second of execution; what is asked to end keeps an eighth of it to unwind.
FUEL = 1_500_000_000
WALL_MS = 20_000
EXCEPTION = "guest_exception"
FUEL_OUT = "fuel_exhausted"
MEMORY_OUT = "memory_exceeded"
OUTPUT_OUT = "output_exceeded"
DEADLINE = "deadline_exceeded"
TRAP = "guest_trap"
VIOLATION = "boundary_violation"
DONE = "completed"


_checkpoints: WeakKeyDictionary[Session, Checkpoints] = WeakKeyDictionary()


@dataclass(frozen=True)
class Hostile:
    """A program, the outcomes it may have, and whether it costs the guest, so that the session goes back.

    `restored` is None where CPython gives no promise: bytecode that no compiler made.
    """

    source: str
    outcome: str | tuple[str, ...]
    restored: bool | None = False
    says: str = ""


def let_go(session: Session) -> None:
    """Keep no state of a session that is closed: what a state was moved into is a file."""
    _checkpoints.pop(session, None)


def run_hostile(session: Session, source: str) -> CellResult:
    """Run a cell the way the worker does for a run: over a checkpoint."""
    limits = cell_limits(fuel_max=FUEL, wall_ms_max=WALL_MS)
    cell = Cell(source, limits, report_variables=True)
    checkpoints = _checkpoints.setdefault(session, Checkpoints())
    result = drive(operations.run_cell(session, cell, MEMORY_BYTES, checkpoints), echo)
    assert isinstance(result, CellResult)
    return result


def assert_typed(result: CellResult) -> None:
    """Whatever happened, it happened within the limits and has a name."""
    assert (result.error is None) == (result.outcome == DONE)
    assert result.error is None or isinstance(result.error, RlmWasmError)
    assert result.fuel_used <= FUEL
    assert result.memory_peak_bytes <= MEMORY_BYTES
    assert result.executed_ns <= (WALL_MS + 2_000) * 1_000_000
    assert len(result.stdout.encode()) <= cell_limits().stdout_bytes_max
    assert result.session_state is not SessionState.LOST


def assert_survived(session: Session, case: Hostile) -> None:
    """Run the case: its outcome is one it may have, and the next cell has every variable from before."""
    completed(session, "kept = 'here'")
    result = run_hostile(session, case.source)
    assert_typed(result)
    expected = (case.outcome,) if isinstance(case.outcome, str) else case.outcome
    assert result.outcome in expected, (result.outcome, result.error, result.stderr[-500:])
    restored = result.session_state is SessionState.RESTORED
    assert case.restored in (None, restored), (result.outcome, result.error)
    assert case.says in str(result.error)
    after = run_hostile(session, "kept, 6 * 7")
    assert (after.outcome, after.result) == (DONE, "('here', 42)"), (after, result)
