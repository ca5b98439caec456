"""The result of one cell: typed, bounded text, whichever process it ran in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import GuestError

COMPLETED: Final = "completed"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one cell came to. `error` is None exactly when `outcome` is "completed".

    `result` is the repr of the last expression. `session_lost` says that a limit or a trap ended
    the guest in this cell; `restored`, that the session lives on with the variables it had before.
    `executed_ns` does not count waits for the host. `draft` is what the code would answer so far, where it
    said something new about that: `answer["content"]`, or what it gave FINAL and was too long.
    """

    outcome: str
    stdout: str
    stderr: str
    result: str | None
    error: GuestError | None
    variables: tuple[str, ...]
    fuel_used: int
    memory_peak_bytes: int
    executed_ns: int
    session_lost: bool
    restored: bool = False
    draft: str | None = None


def silent_result(
    error: GuestError,
    *,
    session_lost: bool,
    fuel_used: int = 0,
    executed_ns: int = 0,
    memory_peak_bytes: int = 0,
) -> CellResult:
    """Return the result of a cell that ended without a word of its guest."""
    return CellResult(
        outcome=error.outcome,
        stdout="",
        stderr="",
        result=None,
        error=error,
        variables=(),
        fuel_used=fuel_used,
        memory_peak_bytes=memory_peak_bytes,
        executed_ns=executed_ns,
        session_lost=session_lost,
    )
