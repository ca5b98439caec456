"""The table of how an operation may end by a worker's word, whatever name the worker sends.

A worker may belong to an attacker, so its host raises nothing because a worker named it. It may say what a
guest can come to, that this machine refused it something, and that it failed. Anything else breaks the
protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Set as AbstractSet
from typing import Final

from rlm_wasm.errors import (
    BoundaryViolation,
    GuestError,
    HostExhausted,
    InternalError,
    RlmWasmError,
    UsageError,
    WorkerLost,
)
from rlm_wasm.protocol.cell_result import CellResult
from rlm_wasm.protocol.worker_messages import CellReport, ErrorReport, decode_error


class Operation(enum.Enum):
    """What ends with one report."""

    OPEN = "open"
    LOAD = "load"
    RUN = "run"
    REBASE = "rebase"
    IMAGE = "image"


# The worker's own failures: of the machine, or a bug of ours. They cost the session, never its caller.
_FAILURES: Final = frozenset({"HostExhausted", "InternalError"})
# By the guest, or by a limit of it.
_OF_A_LOAD: Final = frozenset(
    {"MemoryExceeded", "FuelExhausted", "DeadlineExceeded", "BoundaryViolation", "GuestTrap"}
)
_OF_A_CELL: Final = _OF_A_LOAD | {"OutputExceeded", "RequestsExceeded", "GuestException"}
ERRORS: Final[dict[Operation, frozenset[str]]] = {
    Operation.OPEN: _FAILURES,
    Operation.LOAD: _FAILURES | _OF_A_LOAD,
    Operation.RUN: _FAILURES,  # all else is in its result
    Operation.REBASE: _FAILURES,
    Operation.IMAGE: _FAILURES,
}
# What a cell's end says of its session, where that leaves no choice.
_SESSION_LOST: Final = {"completed": False, "guest_exception": False, "guest_trap": True}


def check_error(operation: Operation, report: ErrorReport, told: AbstractSet[str], *, lost: bool) -> None:
    """Check that an operation may end by such an error. `told` is what the host told it to end by.

    `lost`: the session may be lost already, which the worker says as a UsageError.

    Raises:
        BoundaryViolation: it may not.
    """
    allowed = report.kind in ERRORS[operation] or report.kind in told
    if not allowed and not (lost and report.kind == UsageError.__name__):
        raise BoundaryViolation(f"an error that cannot end this operation: {operation.value}")


def check_cell(result: CellReport, told: AbstractSet[str]) -> None:
    """Check that a cell may end so. Raises BoundaryViolation if it may not."""
    error = result.error
    if (error is None) != (result.outcome == "completed"):
        raise BoundaryViolation("a result that contradicts itself")
    if error is not None and error.kind not in _OF_A_CELL and error.kind not in told:
        raise BoundaryViolation("an error that cannot end a cell")
    if _SESSION_LOST.get(result.outcome, result.session_lost) != result.session_lost:
        raise BoundaryViolation("a result that contradicts itself about its session")
    if result.restored and not result.session_lost:
        raise BoundaryViolation("a session that went back and was not lost")


def error_of(report: ErrorReport, *, in_cell: bool) -> RlmWasmError:
    """Return what the host makes of an error that was checked: no word of a worker is a bug of the host's."""
    error = decode_error(report)
    if isinstance(error, GuestError):
        return error
    if isinstance(error, UsageError):
        return UsageError("the session is lost")
    if isinstance(error, HostExhausted) and not in_cell:
        return error
    what = "was refused something by this machine" if isinstance(error, HostExhausted) else "failed"
    assert isinstance(error, HostExhausted | InternalError)
    return WorkerLost(f"the session is gone: its worker {what}: {error.message}", hint=error.hint)


def result_of(report: CellReport) -> CellResult:
    """Return the result that a report holds. Raises BoundaryViolation if its error is none of ours."""
    error = None if report.error is None else decode_error(report.error)
    if error is not None and not isinstance(error, GuestError):
        raise BoundaryViolation("a cell ended by an error that is no guest's")
    if error is not None and error.outcome != report.outcome:
        raise BoundaryViolation("a result that contradicts itself")
    return CellResult(
        outcome=report.outcome,
        stdout=report.stdout,
        stderr=report.stderr,
        result=report.result,
        error=error,
        variables=report.variables,
        fuel_used=report.fuel_used,
        memory_peak_bytes=report.memory_peak_bytes,
        executed_ns=report.executed_ns,
        session_lost=report.session_lost,
        restored=report.restored,
        draft=report.draft,
    )
