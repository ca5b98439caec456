"""The steps that a session yields to whoever drives it, and the end of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from rlm_wasm.errors import GuestError
from rlm_wasm.protocol.commands import FuelNeeded, InputWanted, Requested, Wrote


@dataclass(frozen=True, slots=True)
class Slice:
    """The guest used its slice and can go on at once."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """The guest sleeps until `until_ns` of the host's monotonic clock."""

    until_ns: int


# A session that waits for its host, or has written something, yields the report that its host gets.
Step = Slice | Requested | InputWanted | Sleep | FuelNeeded | Wrote
SLICE = Slice()
FUEL_NEEDED = FuelNeeded()


class CellProgress(IntEnum):
    """How far the guest's REPL says it came with a cell; the numbers are `rlm_repl`'s."""

    NOT_BEGUN = 0
    COMPILING = 1
    RUNNING = 2


class CellEnd(NamedTuple):
    """What a cell left behind. All bytes are the guest's, cut at the policy's caps, not decoded.

    `raised`: the guest reported an exception in `error`. `fault`: the host ended the cell; the
    session is lost then. `soft`: the cell was asked to end, because of this limit. `output_cut`: some
    of its output was dropped.
    """

    raised: bool
    fault: GuestError | None
    soft: GuestError | None
    output_cut: bool
    stdout: bytes
    stderr: bytes
    result: bytes | None
    error: bytes | None
    report: bytes | None
    fuel_used: int
    memory_bytes: int
    executed_ns: int
    progress: CellProgress = CellProgress.RUNNING
    value: bytes | None = None
    value_bytes: int = 0
