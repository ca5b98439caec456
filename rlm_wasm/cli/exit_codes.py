"""The exit statuses of every command."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


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
    "completed": ExitCode.DONE,
    "guest_exception": ExitCode.GUEST,
    "fuel_exhausted": ExitCode.LIMIT,
    "memory_exceeded": ExitCode.LIMIT,
    "deadline_exceeded": ExitCode.LIMIT,
    "output_exceeded": ExitCode.LIMIT,
    "requests_exceeded": ExitCode.LIMIT,
    "boundary_violation": ExitCode.VIOLATION,
    "guest_trap": ExitCode.VIOLATION,
    "worker_lost": ExitCode.VIOLATION,
    "cancelled": ExitCode.INTERRUPTED,
}
_LIMIT_REASONS: Final = (
    "budget:",
    "deadline:",
    "overdraft:",
    "iterations_exhausted",
)


def of_outcome(outcome: str) -> ExitCode:
    """Return the status for a cell's outcome."""
    return _BY_OUTCOME.get(outcome, ExitCode.INTERNAL)


def of_run(*, partial: bool, reason: str) -> ExitCode:
    """Return the status for a run's end."""
    if not partial:
        return ExitCode.DONE
    # An event that could not be written stands behind what ended the run.
    if reason.partition(f"; {EVENTS_REASON}")[0] == INTERRUPTED_REASON:
        return ExitCode.INTERRUPTED
    return ExitCode.LIMIT if reason.startswith(_LIMIT_REASONS) else ExitCode.GUEST


INTERRUPTED_REASON: Final = "interrupted"
# Of the answer to a run whose events are not complete.
EVENTS_REASON: Final = "events: "
