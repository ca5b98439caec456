"""A finished cell, decoded: from the guest's raw streams to typed, bounded text."""

from __future__ import annotations

from rlm_wasm.errors import BoundaryViolation, GuestError, GuestException, MemoryExceeded
from rlm_wasm.protocol.cell_result import COMPLETED, CellResult
from rlm_wasm.protocol.guest_error import CellVariables, decode_cell_report, decode_guest_error
from rlm_wasm.vm.steps import CellEnd


def decode_cell(end: CellEnd) -> CellResult:
    """Decode what a cell left behind. A guest that reports nonsense is a BoundaryViolation in the result."""
    error = end.fault
    told = CellVariables(())
    lost = end.fault is not None
    try:
        if end.report is not None:
            told = decode_cell_report(end.report)
        if end.raised and error is None:
            error = _exception(end)
        if error is None and end.output_cut and end.soft is not None:
            # The cell ran to its end, but not everything it wrote is there.
            error = end.soft
    except BoundaryViolation as violation:
        error = violation
    return CellResult(
        outcome=COMPLETED if error is None else error.outcome,
        stdout=_text(end.stdout),
        stderr=_text(end.stderr),
        result=None if end.result is None else _text(end.result),
        error=error,
        variables=told.variables,
        fuel_used=end.fuel_used,
        memory_peak_bytes=end.memory_bytes,
        executed_ns=end.executed_ns,
        session_lost=lost,
        draft=told.draft,
    )


def _exception(end: CellEnd) -> GuestError:
    if end.error is None:
        raise BoundaryViolation("the guest raised and did not say what")
    told = decode_guest_error(end.error)
    if told.type_name == "MemoryError":
        # The guest met its memory cap, caught by CPython: the session lives.
        return MemoryExceeded("the guest ran out of memory", traceback=told.traceback)
    if end.soft is not None and told.type_name == type(end.soft).__name__:
        # It ended as it was asked to. Whether it was asked is the host's to know, not the name's.
        return type(end.soft)(end.soft.message, traceback=told.traceback)
    return GuestException(told.type_name, told.message, told.traceback)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
