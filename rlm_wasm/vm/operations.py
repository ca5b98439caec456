"""The operations of a session, each a generator: run a cell, load, rebase, snapshot."""

from __future__ import annotations

from collections.abc import Generator

from rlm_wasm.errors import GuestError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.input_reads import InputPart
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.protocol.text_layout import LaidOut
from rlm_wasm.results import CellResult
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.session import Operation, Session
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.steps import SLICE, Step
from rlm_wasm.vm.upkeep import Upkeep

Ended = CellResult | MemorySnapshot | None
SessionOperation = Generator[Step, bytes | InputPart | None, Ended]


def run_cell(
    session: Session, cell: Cell, checkpoint_bytes_max: int, checkpoints: Checkpoints | None = None
) -> Operation[Ended]:
    """Run a cell; where it ends the guest, go back to the state before it, if that was kept.

    It is kept when it takes no more than `checkpoint_bytes_max`. `checkpoints` are the session's own: they
    hold one more state of at most that size, before the last cell that ran, for where the damage is older.
    What keeping it costs is the cell's: it may be cancelled meanwhile, and its time may end.
    """
    if checkpoint_bytes_max == 0:
        checkpoint = upkeep = None
    else:
        upkeep = Upkeep(cell.limits)
        try:
            checkpoint = yield from session.snapshot(bytes_max=checkpoint_bytes_max, upkeep=upkeep)
        except GuestError as error:
            # The cell has not begun: what there was of it is the keeping.
            return CellResult(
                error=error,
                fuel_used=upkeep.fuel,
                executed_ns=upkeep.executed_ns,
                memory_peak_bytes=session.memory_bytes,
            )
    end = yield from session.run(cell, after=upkeep)
    result = decode_cell(end, memory_bytes_max=session.memory_bytes_max)
    return (checkpoints or Checkpoints()).settle(session, checkpoint, end, result)


def load(
    session: Session, name: str, value: str | bytes | LaidOut, held: HeldInput | None = None
) -> Operation[Ended]:
    """Bind an input in the guest."""
    yield from session.load(name, value, held)
    return None


def rebase(session: Session, checkpoints: Checkpoints) -> Operation[Ended]:
    """Make the present state the session's origin."""
    yield SLICE
    checkpoints.forget()
    yield from session.rebase()
    return None


def take_snapshot(session: Session) -> Operation[Ended]:
    """Return a snapshot of the session."""
    yield SLICE
    return (yield from session.snapshot())
