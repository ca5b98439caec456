"""The exit statuses of every command."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from rlm_wasm.outcomes import Outcome, StopKind, StopReason


class ExitCode(IntEnum):
    """0 done; the rest in the order of whose doing it was: guest, operator, limit, attack, us."""

    DONE = 0
    GUEST = 1  # the guest's own exception, no answer found, a replay that differs; nobody reads the output
    USAGE = 2  # the command line, the policy, a missing guest, a machine that has no more room
    LIMIT = 3  # a limit of the policy ended it
    VIOLATION = 4  # a boundary violation, a trap, or the guest's process is gone
    INTERNAL = 70  # our bug
    INTERRUPTED = 130  # Ctrl-C


_BY_OUTCOME: Final = {
    Outcome.COMPLETED: ExitCode.DONE,
    Outcome.GUEST_EXCEPTION: ExitCode.GUEST,
    Outcome.REFUSED: ExitCode.GUEST,
    Outcome.BOUNDARY_VIOLATION: ExitCode.VIOLATION,
    Outcome.GUEST_TRAP: ExitCode.VIOLATION,
    Outcome.WORKER_LOST: ExitCode.VIOLATION,
    Outcome.CANCELLED: ExitCode.INTERRUPTED,
}
# What Ctrl-C gives as its reason.
INTERRUPTED: Final = "interrupted"


def of_outcome(outcome: Outcome) -> ExitCode:
    """Return the status for a cell's outcome."""
    return ExitCode.LIMIT if outcome.is_limit else _BY_OUTCOME[outcome]


def of_run(stop: StopReason, *, partial: bool) -> ExitCode:
    """Return the status for a run's end: an event that could not be written stands behind what ended it."""
    if not partial:
        return ExitCode.DONE
    if stop.kind is StopKind.CANCELLED and str(stop) == INTERRUPTED:
        return ExitCode.INTERRUPTED
    return ExitCode.LIMIT if stop.is_limit else ExitCode.GUEST
