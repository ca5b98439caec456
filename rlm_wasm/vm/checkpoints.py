"""The checkpoints of a session: where it can go back to when a cell ended badly, and how far it has to.

A guest that was taken apart by an earlier cell is not mended by going back to the state before this one:
the damage is in it. So the state before the last cell that ran is kept, too. What tells the two apart is
how far the guest's REPL came with the cell. It is the guest's own word, and can only cost its own session
variables.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestException,
    GuestTrap,
    MemoryExceeded,
    OutputExceeded,
    RequestsExceeded,
)
from rlm_wasm.outcomes import SessionState
from rlm_wasm.results import CellResult
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.steps import CellEnd, CellProgress

_LIMITS: Final = (
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    MemoryExceeded,
    OutputExceeded,
    RequestsExceeded,
)
# What compiling a cell may raise because of the cell.
_OF_THE_COMPILER: Final = frozenset(
    ("SyntaxError", "IndentationError", "TabError", "ValueError", "OverflowError", "RecursionError")
)
_BROKEN: Final = "an earlier cell broke the guest's REPL; what that cell did is undone, too"
_BROKEN_FOR_GOOD: Final = "an earlier cell broke the guest's REPL"
_UNDONE: Final = "; what the cell before it did is undone, too"


class Ending(Enum):
    """How a cell ended, as far as going back is concerned."""

    FINE = auto()  # its own code ran, and the guest lives
    LOST = auto()  # its own code ran, and the guest had to be stopped
    EARLY = auto()  # a limit, before its own code ran
    NONSENSE = auto()  # the guest reported what nobody can read
    BROKEN = auto()  # the REPL did not even get to its code


def ending_of(end: CellEnd, error: GuestError | None) -> Ending:
    """Return how a cell ended. `error` is what it came to."""
    # First: a cancellation may come at any moment, and no limit is the REPL's fault.
    if isinstance(error, CellCancelled):
        return Ending.FINE if end.fault is None else Ending.LOST
    if isinstance(error, _LIMITS):
        if end.progress is not CellProgress.RUNNING and not isinstance(error, MemoryExceeded):
            return Ending.EARLY
        return Ending.FINE if end.fault is None else Ending.LOST
    if end.progress is CellProgress.NOT_BEGUN:
        return Ending.BROKEN
    if end.fault is not None:
        return Ending.LOST
    if isinstance(error, BoundaryViolation):
        return Ending.NONSENSE
    if end.progress is CellProgress.COMPILING and not (
        isinstance(error, GuestException) and error.type_name in _OF_THE_COMPILER
    ):
        return Ending.BROKEN
    return Ending.FINE


class Checkpoints:
    """One session's: the state before its last cell that ran, and how often it failed since."""

    def __init__(self) -> None:
        self._before: MemorySnapshot | None = None
        self._failures = 0

    def forget(self) -> None:
        """Hold nothing: the session's origin is another now."""
        self._before = None
        self._failures = 0

    def settle(
        self, session: Session, checkpoint: MemorySnapshot | None, end: CellEnd, result: CellResult
    ) -> CellResult:
        """Take the session back as far as the end of its cell demands; return what the cell came to.

        `checkpoint` is the state before the cell; None: none was kept.
        """
        ending = ending_of(end, result.error)
        if ending in (Ending.FINE, Ending.LOST):
            self._failures = 0
            if ending is Ending.LOST:
                return _back_to(session, checkpoint, result)
            if end.progress is CellProgress.RUNNING:
                self._before = checkpoint
            return result
        self._failures += 1
        if ending is Ending.BROKEN:
            broken = result.revised(error=GuestTrap(_BROKEN))
            return self._further_back(session, broken, GuestTrap(_BROKEN_FOR_GOOD))
        if self._failures > 1 and result.error is not None:
            # Not this cell's fault, then: it is the second in a row.
            undone = result.error.restated(result.error.message + _UNDONE)
            return self._further_back(session, result.revised(error=undone), result.error)
        if ending is Ending.NONSENSE or result.session_state is not SessionState.ALIVE:
            return _back_to(session, checkpoint, result)
        return result

    def _further_back(self, session: Session, result: CellResult, otherwise: GuestError) -> CellResult:
        before, self._before, self._failures = self._before, None, 0
        if before is None:
            session.lose()
            return result.revised(error=otherwise, session_state=SessionState.LOST)
        return _back_to(session, before, result)


def _back_to(session: Session, checkpoint: MemorySnapshot | None, result: CellResult) -> CellResult:
    if checkpoint is None:
        return result
    session.restore(checkpoint)
    return result.revised(session_state=SessionState.RESTORED)
