"""From raw streams to a typed result: nonsense from a guest is a violation, never an exception."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, FuelExhausted, GuestException, MemoryExceeded
from rlm_wasm.outcomes import SessionState
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.steps import CellEnd


def end(**over: Any) -> CellEnd:
    values: dict[str, Any] = {
        "raised": False, "fault": None, "soft": None, "output_cut": False, "stdout": b"", "stderr": b"",
        "result": None, "error": None,
        "report": None, "fuel_used": 1, "memory_bytes": 2, "executed_ns": 3,
    }  # fmt: skip
    return CellEnd(**(values | over))


def test_a_plain_cell_completes() -> None:
    result = decode_cell(end(stdout=b"out", result=b"5", report=b'{"variables":["x"]}'))
    assert (result.outcome, result.error, result.variables) == ("completed", None, ("x",))
    assert (result.stdout, result.result, result.session_state) == ("out", "5", "alive")


def test_an_exception_keeps_its_type_message_and_traceback() -> None:
    result = decode_cell(end(raised=True, error=b'{"type":"E","message":"m","traceback":"t"}'))
    assert isinstance(result.error, GuestException)
    assert (result.error.type_name, result.error.guest_message, result.error.traceback) == ("E", "m", "t")


def test_a_memory_error_is_the_limit_it_met() -> None:
    result = decode_cell(end(raised=True, error=b'{"type":"MemoryError","message":"","traceback":""}'))
    assert isinstance(result.error, MemoryExceeded)
    assert result.session_state is SessionState.ALIVE


def test_a_fault_counts_more_than_what_the_guest_says() -> None:
    fault = FuelExhausted("no fuel")
    result = decode_cell(end(fault=fault, raised=True, error=b'{"type":"E","message":"","traceback":""}'))
    assert (result.error, result.outcome, result.session_state) == (fault, "fuel_exhausted", "lost")


@pytest.mark.threat("T-022")
@given(
    error=st.none() | st.binary(max_size=60), report=st.none() | st.binary(max_size=60), raised=st.booleans()
)
def test_any_bytes_are_a_result(error: bytes | None, report: bytes | None, raised: bool) -> None:
    result = decode_cell(end(raised=raised, error=error, report=report, stdout=b"\xff\xfe"))
    assert result.error is None or isinstance(
        result.error, GuestException | BoundaryViolation | MemoryExceeded
    )
    assert result.stdout == "\ufffd\ufffd"
