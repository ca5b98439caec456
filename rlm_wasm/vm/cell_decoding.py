"""A finished cell, decoded: from the guest's raw streams to typed, bounded text."""

from __future__ import annotations

from rlm_wasm.errors import BoundaryViolation, GuestError, GuestException, MemoryExceeded
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.guest_error import CellVariables, decode_cell_report, decode_guest_error
from rlm_wasm.results import CellResult
from rlm_wasm.vm.steps import CellEnd


def decode_cell(end: CellEnd, *, memory_bytes_max: int | None = None) -> CellResult:
    """Decode what a cell left behind. A guest that reports nonsense is a BoundaryViolation in the result.

    `memory_bytes_max` is the limit that a MemoryError in the guest is told to have met.
    """
    error = end.fault
    told = CellVariables(())
    try:
        if end.report is not None:
            told = decode_cell_report(end.report)
        if end.raised and error is None:
            error = _exception(end, memory_bytes_max)
        if error is None and end.output_cut and end.soft is not None:
            # The cell ran to its end, but not everything it wrote is there.
            error = end.soft
    except BoundaryViolation as violation:
        error = violation
    return CellResult(
        error=error,
        stdout=_text(end.stdout),
        stderr=_text(end.stderr),
        result=None if end.result is None else _text(end.result),
        variables=told.variables,
        fuel_used=end.fuel_used,
        memory_peak_bytes=end.memory_bytes,
        executed_ns=end.executed_ns,
        session_state=SessionState.ALIVE if end.fault is None else SessionState.LOST,
        draft=told.draft,
        value_frame=end.value,
        value_bytes=end.value_bytes,
    )


def _exception(end: CellEnd, memory_bytes_max: int | None) -> GuestError:
    if end.error is None:
        raise BoundaryViolation("the guest raised and did not say what")
    told = decode_guest_error(end.error)
    if told.type_name == "MemoryError":
        # The guest met its memory cap, caught by CPython: the session lives.
        cap = memory_bytes_max
        return MemoryExceeded("the guest ran out of memory", traceback=told.traceback, limit=cap)
    if end.soft is not None and told.type_name == type(end.soft).__name__:
        # It ended as it was asked to. Whether it was asked is the host's to know, not the name's.
        return end.soft.restated(end.soft.message, traceback=told.traceback)
    return GuestException(told.type_name, told.message, told.traceback)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
