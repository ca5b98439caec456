"""Everything a session can do, done once: the warm-up of workers that only tests have.

Python loads codecs and error formatting on first use, and a locked-down process can load nothing.
"""

from __future__ import annotations

import os
import traceback
from typing import Final

from rlm_wasm.errors import GuestError, InternalError
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.guest_frames import decode_request
from rlm_wasm.results import CellResult
from rlm_wasm.vm import operations
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.entropy import seeded_entropy
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot
from tests.support.process_guest import process_guest

_MIB: Final = 1 << 20
# Small, so that the ends that come by a limit come soon.
_CELL: Final = CellLimits(
    fuel_max=24_000_000,
    wall_ms_max=2_000,
    stdout_bytes_max=4_096,
    stderr_bytes_max=4_096,
    result_bytes_max=4_096,
    source_bytes_max=4_096,
    requests_max=4,
    sleep_ms_max=1,
)
_SESSION: Final = SessionLimits(
    memory_bytes_max=96 * _MIB,
    context_bytes_max=16 * _MIB,
    checkpoint_bytes_max=16 * _MIB,
    files_bytes_max=16 * _MIB,
    files_max=1_000,
    clock="real",
    entropy="fresh",
    seed=0,
)
_BOUNDARY: Final = BoundaryLimits(
    frame_bytes_max=65_536,
    control_frame_bytes_max=4_096,
    prompt_bytes_max=4_096,
    response_bytes_max=65_536,
    batch_items_max=4,
    nesting_max=8,
    host_wait_ms_max=1_000,
)
# One input of each layout a str can have in the guest, and bytes.
_INPUTS: Final[tuple[str | bytes, ...]] = ("a", "é", "漢", "🙂", b"\xff", "")
# (source, outcome): each way a cell can end. Those after a lost session go back to a checkpoint.
_CELLS: Final[tuple[tuple[str, str], ...]] = (
    ("import time; time.sleep(0.0005); print('é', time.time()); 1 + 1", "completed"),
    ("llm_query('hello')", "completed"),
    ("1/0", "guest_exception"),
    ("while True: pass", "fuel_exhausted"),
    ("while True:\n try:\n  while True: pass\n except BaseException: pass", "fuel_exhausted"),
    ("while True: print('x' * 1000)", "output_exceeded"),
    ("bytearray(10**8)", "memory_exceeded"),
    ("import _rlm; _rlm.emit(99, b'x')", "boundary_violation"),
    ("import time; time.sleep(1000)", "deadline_exceeded"),
    ("import os; os.abort()", "guest_trap"),
)


def warm_sessions() -> None:
    """Use sessions in every way, on this thread.

    Raises:
        InternalError: a cell did not end the way it should; nothing of ours works then.
    """
    session = _session(None)
    for value in _INPUTS:
        drive(operations.load(session, "context", value))
    for source, outcome in _CELLS:
        _run(session, source, outcome)
    drive(operations.rebase(session, Checkpoints()))
    taken = drive(operations.take_snapshot(session))
    session.close()
    if not isinstance(taken, MemorySnapshot):
        raise InternalError("a warm-up session gave no snapshot")
    fork = _session(taken)
    _run(fork, "context", "completed")
    fork.close()


def _session(start: MemorySnapshot | None) -> Session:
    loaded = process_guest()
    seeded_entropy(0, 0)(32)
    return Session(loaded.program, loaded.facts, _SESSION, _BOUNDARY, os.urandom, start=start)


def _run(session: Session, source: str, outcome: str) -> None:
    cell = Cell(source, _CELL, report_variables=True)
    result = drive(operations.run_cell(session, cell, _SESSION.checkpoint_bytes_max), _answer)
    if not isinstance(result, CellResult) or result.outcome != outcome:
        raise InternalError(f"a warm-up cell ended with {getattr(result, 'outcome', result)}: {source}")
    if result.error is not None:
        "".join(traceback.format_exception(result.error))


def _answer(frame: bytes) -> bytes:
    try:
        decode_request(b"[]", _BOUNDARY)
    except GuestError:
        decode_request(frame, _BOUNDARY)
    return b'{"status":"completed","text":"ok"}'
