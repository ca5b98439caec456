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
from rlm_wasm.outcomes import Outcome, SessionState
from rlm_wasm.protocol.worker_messages import ErrorReport, decode_error, kind_of
from rlm_wasm.results import CellResult


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
# How a session may stand after a cell, where the cell's end leaves less than every choice.
_STOPPED: Final = frozenset((SessionState.RESTORED, SessionState.LOST))
_ANY: Final = frozenset(SessionState)
_STATES: Final = {
    Outcome.COMPLETED: frozenset((SessionState.ALIVE,)),
    Outcome.GUEST_EXCEPTION: frozenset((SessionState.ALIVE,)),
    Outcome.GUEST_TRAP: _STOPPED,
}


def check_error(operation: Operation, report: ErrorReport, told: AbstractSet[str], *, lost: bool) -> None:
    """Check that an operation may end by such an error. `told` is what the host told it to end by.

    `lost`: the session may be lost already, which the worker says as a UsageError.

    Raises:
        BoundaryViolation: it may not.
    """
    allowed = report.kind in ERRORS[operation] or report.kind in told
    if not allowed and not (lost and report.kind == UsageError.__name__):
        raise BoundaryViolation(f"an error that cannot end this operation: {operation.value}")


def check_cell(result: CellResult, told: AbstractSet[str]) -> None:
    """Check that a cell may end so. Raises BoundaryViolation if it may not."""
    error = result.error
    if error is not None and (kind := kind_of(error)) not in _OF_A_CELL and kind not in told:
        raise BoundaryViolation("an error that cannot end a cell")
    if result.session_state not in _STATES.get(result.outcome, _ANY):
        raise BoundaryViolation("a result that contradicts itself about its session")


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
