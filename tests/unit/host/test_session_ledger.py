"""The host's books of one worker: whatever was not due ends it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    GuestError,
    GuestException,
    GuestTrap,
    HostExhausted,
    UsageError,
    WorkerLost,
)
from rlm_wasm.host.endings import Operation
from rlm_wasm.host.session_ledger import (
    TRANSITIONS,
    ReportStep,
    SessionLedger,
    SessionPhase,
    asked_of,
    report_bytes_max,
)
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.input_reads import InputOp
from rlm_wasm.results import CellResult
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

CELL = cell_limits()
STOP = CellCancelled("x")
RESULT = CellResult(result="2", fuel_used=10, memory_peak_bytes=65_536, executed_ns=10)


def opened() -> SessionLedger:
    books = SessionLedger()
    operation = books.opening(1, session_limits(), boundary_limits())
    books.check(m.OperationDone(1, operation))
    return books


def running() -> tuple[SessionLedger, int]:
    books = opened()
    return books, books.beginning(1, Operation.RUN, cell=CELL)


def done(operation: int, **changed: Any) -> m.OperationDone:
    return m.OperationDone(1, operation, result=structs.replace(RESULT, **changed))


def test_the_table_ends_where_a_session_is_closed_and_nowhere_else():
    for state, row in TRANSITIONS.items():
        for step, after in row.items():
            assert (after is None) == (state is SessionPhase.CLOSING and step is ReportStep.CLOSED)


def test_a_cell_asks_is_answered_and_ends():
    books, operation = running()
    books.check(m.GuestRequest(1, operation, b"?"))
    assert books.state(1) is SessionPhase.WAITING
    assert books.responding(1)
    assert not books.responding(1)
    books.check(done(operation))
    assert books.state(1) is SessionPhase.IDLE


def asks_an_input(operation: int, **changed: Any) -> m.InputRequest:
    asked = m.InputRequest(1, operation, InputOp.READ, 1, 0, 1 << 20, b"")
    return structs.replace(asked, **changed)


@pytest.mark.threat("T-204")
def test_what_a_cell_asks_of_its_inputs_is_answered_before_it_goes_on():
    books, operation = running()
    books.check(asks_an_input(operation))
    assert books.state(1) is SessionPhase.WAITING
    with pytest.raises(BoundaryViolation):
        books.check(asks_an_input(operation))
    assert books.responding(1)
    books.check(done(operation))


@pytest.mark.threat("T-204")
def test_a_worker_asks_for_no_more_of_inputs_than_the_cell_has_fuel_for():
    books, operation = running()
    each = asked_of(asks_an_input(operation)).fuel
    for _ in range(CELL.fuel_max // each + 1):
        books.check(asks_an_input(operation))
        assert books.responding(1)
    with pytest.raises(BoundaryViolation, match="fuel"):
        books.check(asks_an_input(operation))


@pytest.mark.threat("T-204")
@pytest.mark.parametrize(
    "changed",
    [
        {"length": (8 << 20) + 1},
        {"op": InputOp.FIND},
        {"op": InputOp.FIND, "needle": b"x" * 4097},
        {"op": InputOp.COUNT, "needle": b"x", "length": (64 << 20) + 1},
        {"op": InputOp.SIZE},
        {"op": InputOp.CHARACTERS, "length": 7},
        {"needle": b"x"},
        {"offset": (1 << 62) + 1},
        {"number": 1 << 24},
        {"operation": 99},
    ],
)
def test_a_worker_asks_nothing_of_an_input_that_no_guest_could(changed: dict[str, Any]):
    books, operation = running()
    with pytest.raises(BoundaryViolation):
        books.check(asks_an_input(**{"operation": operation} | changed))


@pytest.mark.threat("T-204")
def test_nothing_is_asked_of_inputs_outside_a_cell():
    books = opened()
    operation = books.beginning(1, Operation.LOAD)
    with pytest.raises(BoundaryViolation):
        books.check(asks_an_input(operation))


def test_a_stopped_cell_may_ask_once_more_and_no_more():
    books, operation = running()
    assert books.stopping(1, STOP)
    assert not books.stopping(1, STOP)
    books.check(m.GuestRequest(1, operation, b"?"))
    assert not books.responding(1)
    with pytest.raises(BoundaryViolation, match="told to end"):
        books.check(m.GuestRequest(1, operation, b"?"))


def test_a_closed_session_reports_its_end_at_most_once_and_then_is_gone():
    books, operation = running()
    assert books.closing(1)
    assert not books.closing(1)
    books.check(m.OperationDone(1, operation, error=m.encode_error(UsageError("x"))))
    with pytest.raises(BoundaryViolation, match="another operation"):
        books.check(done(operation))
    books.check(m.SessionClosed(1))
    assert books.state(1) is None
    with pytest.raises(BoundaryViolation, match="does not hold"):
        books.check(m.SessionClosed(1))


def test_a_session_that_could_not_be_made_is_gone_at_once():
    books = SessionLedger()
    operation = books.opening(1, session_limits(), boundary_limits())
    books.check(m.OperationDone(1, operation, error=m.encode_error(HostExhausted("x"))))
    assert books.sessions == ()


@pytest.mark.threat("T-056")
@pytest.mark.parametrize(
    "report",
    [
        m.GuestRequest(2, 2, b"?"),  # a session that is not there
        m.GuestRequest(1, 1, b"?"),  # an operation that is over
        m.GuestRequest(1, 3, b"?"),  # one that never was
        m.GuestRequest(1, 2, b"x" * 262_145),
        m.OperationDone(1, 2),  # a cell without a result
        m.OperationDone(1, 2, result=RESULT, error=m.encode_error(CellCancelled("x"))),
        m.OperationDone(1, 2, image=m.ImageReport(65_536, 0, 0)),
        m.SessionClosed(1),
        m.Pong(1),
        done(2, stdout="x" * (CELL.stdout_bytes_max + 1)),
        done(2, stderr="x" * (CELL.stderr_bytes_max + 1)),
        done(2, result="x" * (CELL.result_bytes_max + 1)),
        done(2, fuel_used=CELL.fuel_max + 1),
        done(2, memory_peak_bytes=1 << 40),
        done(2, session_state=SessionState.LOST),
        done(2, session_state=SessionState.RESTORED),
        done(2, error=GuestException("E", ""), session_state=SessionState.LOST),
        done(2, error=GuestTrap("x")),  # which takes the session along
        done(2, error=CellCancelled("x")),  # nobody asked for it
        done(2, error=WorkerLost("x"), session_state=SessionState.LOST),
    ],
)
def test_a_report_that_is_not_due_or_too_large_is_refused(report):
    books, operation = running()
    assert operation == 2
    with pytest.raises(BoundaryViolation):
        books.check(report)


def dry(refuels: bool = True) -> tuple[SessionLedger, int]:
    books = opened()
    return books, books.beginning(1, Operation.RUN, cell=CELL, refuels=refuels)


def test_a_cell_says_that_its_fuel_is_low_and_may_use_what_it_is_given():
    books, operation = dry()
    for _ in range(3):
        books.check(m.FuelLow(1, operation))
        assert books.state(1) is SessionPhase.DRY
        assert not books.responding(1)
        assert books.refuelling(1, 5)
        assert not books.refuelling(1, 5)
    books.check(done(operation, fuel_used=CELL.fuel_max + 15))
    assert books.state(1) is SessionPhase.IDLE


@pytest.mark.threat("T-141")
def test_a_worker_cannot_report_more_fuel_than_its_cell_was_given():
    books, operation = dry()
    books.check(m.FuelLow(1, operation))
    books.refuelling(1, 5)
    with pytest.raises(BoundaryViolation, match="beyond the limits"):
        books.check(done(operation, fuel_used=CELL.fuel_max + 6))


@pytest.mark.threat("T-141")
def test_a_worker_wants_fuel_only_for_a_cell_that_may_have_more():
    books, operation = dry(refuels=False)
    with pytest.raises(BoundaryViolation, match="where none is due"):
        books.check(m.FuelLow(1, operation))
    books, operation = dry()
    books.check(m.FuelLow(1, operation))
    with pytest.raises(BoundaryViolation, match="out of order"):
        books.check(m.FuelLow(1, operation))
    books, operation = dry()
    books.check(m.FuelLow(1, operation))
    books.refuelling(1, 0)
    with pytest.raises(BoundaryViolation, match="where none is due"):
        books.check(m.FuelLow(1, operation))
    books, operation = dry()
    books.check(done(operation))
    with pytest.raises(BoundaryViolation, match="out of order"):
        books.check(m.FuelLow(1, operation))


def test_a_stopped_cell_may_want_fuel_once_more_and_no_more():
    books, operation = dry()
    assert books.stopping(1, STOP)
    books.check(m.FuelLow(1, operation))
    assert not books.refuelling(1, 5)
    with pytest.raises(BoundaryViolation, match="told to end"):
        books.check(m.FuelLow(1, operation))
    books, operation = dry()
    books.check(m.FuelLow(1, operation))
    assert books.stopping(1, STOP)
    with pytest.raises(BoundaryViolation, match="told to end"):
        books.check(m.FuelLow(1, operation))


@pytest.mark.threat("T-056")
def test_nothing_is_reported_twice():
    books, operation = running()
    books.check(done(operation))
    for report in (done(operation), m.GuestRequest(1, operation, b"?")):
        with pytest.raises(BoundaryViolation):
            books.check(report)
    books.check(m.Ready())
    with pytest.raises(BoundaryViolation):
        books.check(m.Ready())
    books.pinging(5)
    books.check(m.Pong(5))
    with pytest.raises(BoundaryViolation):
        books.check(m.Pong(5))


@pytest.mark.threat("T-056")
def test_a_cell_cannot_ask_while_it_waits_or_more_often_than_a_cell_can():
    books, operation = running()
    request = m.GuestRequest(1, operation, b"?")
    for _ in range(4 * CELL.requests_max + 1):
        books.check(request)
        with pytest.raises(BoundaryViolation, match="out of order"):
            books.check(request)
        books.responding(1)
    with pytest.raises(BoundaryViolation, match="more requests"):
        books.check(request)


@pytest.mark.threat("T-056")
def test_an_input_that_is_loaded_asks_nothing():
    books = opened()
    operation = books.beginning(1, Operation.LOAD)
    with pytest.raises(BoundaryViolation, match="out of order"):
        books.check(m.GuestRequest(1, operation, b"?"))


@pytest.mark.threat("T-058")
@pytest.mark.parametrize(
    "image",
    [
        m.ImageReport(65_537, 0, 1),
        m.ImageReport(1 << 40, 0, 1),
        m.ImageReport(65_536, 0, 17),
        m.ImageReport(65_536, 1 << 61, 1),
        None,
    ],
)
def test_no_image_or_one_of_an_impossible_size_is_refused(image):
    books = opened()
    operation = books.beginning(1, Operation.IMAGE)
    with pytest.raises(BoundaryViolation):
        books.check(m.OperationDone(1, operation, image=image))


@pytest.mark.threat("T-058")
def test_an_image_nobody_asked_for_is_refused():
    books, operation = running()
    with pytest.raises(BoundaryViolation):
        books.check(m.OperationDone(1, operation, image=m.ImageReport(65_536, 0, 0)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@pytest.mark.threat("T-057")
def test_no_bytes_of_a_worker_raise_anything_but_a_violation(data):
    with contextlib.suppress(BoundaryViolation):
        m.decode_report(data)


def test_every_error_of_a_guest_crosses_with_its_type_and_texts():
    from rlm_wasm import errors

    others = (errors.UsageError, errors.PolicyError, errors.ArtifactError, errors.HostExhausted)
    # That a hook refused a cell is the host's own word: no worker can say it.
    assert type(m.decode_error(m.encode_error(errors.CellRefused("what")))) is not errors.CellRefused
    guests = [kind for kind in errors.GuestError.__subclasses__() if kind is not errors.CellRefused]
    for kind in (*guests, *others):
        if kind is errors.GuestException:
            sent: errors.RlmWasmError = errors.GuestException("ValueError", "a\ud800b", "trace")
        elif issubclass(kind, errors.GuestError):
            sent = kind("what", traceback="trace")
        else:
            sent = kind("what", hint="try this")
        got = m.decode_error(m.encode_error(sent))
        assert type(got) is kind
        assert str(got) == str(sent).replace("\ud800", "?")
        assert got.hint == sent.hint


def test_a_result_crosses_with_the_limit_that_its_cell_met():
    slept = DeadlineExceeded("it slept", traceback="here", key="cell.sleep_ms_max", limit=5)
    sent = structs.replace(RESULT, error=slept, variables=("a",), session_state=SessionState.RESTORED)
    got = m.decode_report(m.encode(m.OperationDone(1, 2, result=sent))).result
    assert structs.replace(got, error=slept) == sent
    assert (type(got.error), got.error.message, got.error.traceback) == (DeadlineExceeded, "it slept", "here")
    assert (got.error.key, got.error.limit) == ("cell.sleep_ms_max", 5)


def test_an_error_of_a_callers_own_class_cancels_a_cell():
    class Enough(GuestError):
        pass

    got = m.decode_error(m.encode_error(Enough("enough", key="none.of_ours", limit=5)))
    assert (type(got), got.message, got.key, got.limit) == (CellCancelled, "enough", None, None)
    assert Enough("enough").outcome is got.outcome


@pytest.mark.threat("T-057")
@pytest.mark.parametrize(
    "error",
    [
        m.ErrorReport("KeyboardInterrupt", "x"),
        m.ErrorReport("FuelExhausted", "x", key="cell.sleep_ms_max"),  # another error's
        m.ErrorReport("FuelExhausted", "x", key="policy.of_somebody"),
        m.ErrorReport("HostExhausted", "x", key="cell.fuel_max"),
    ],
)
def test_an_error_of_no_name_or_key_of_ours_is_refused(error):
    with pytest.raises(BoundaryViolation):
        m.decode_error(error)
    with pytest.raises(BoundaryViolation):
        m.decode_report(m.encode(m.OperationDone(1, 2, result=structs.replace(RESULT, error=error))))


@pytest.mark.threat("T-057")
@pytest.mark.parametrize(
    "field",
    [
        {"error": m.ErrorReport("UsageError", "x")},  # no end of a cell
        {"error": "GuestTrap"},
        {"error": [1, 2]},
        {"session_state": "alive and well"},
        {"fuel_used": -1},
        {"executed_ns": 2**62 + 1},
        {"variables": ("x" * 257,)},
        {"variables": ("x",) * 4_097},
        {"draft": "x" * 65_537},
    ],
)
def test_a_result_that_is_none_is_refused(field):
    with pytest.raises(BoundaryViolation):
        m.decode_report(m.encode(m.OperationDone(1, 2, result=structs.replace(RESULT, **field))))


def test_texts_of_an_error_are_cut_to_what_a_report_may_hold():
    report = m.encode_error(CellCancelled("x" * 100_000, traceback="é" * 1_000_000))
    assert m.decode_report(m.encode(m.OperationDone(1, 1, error=report)))
    assert len(report.message) == m.MESSAGE_CHARS_MAX


def test_the_largest_honest_report_fits_its_cap():
    cell = replace(CELL, stdout_bytes_max=1000, stderr_bytes_max=1000, result_bytes_max=1000)
    wide, long = "\ufffd" * 1000, "\ufffd" * 262_144
    full = done(
        1,
        stdout=wide,
        stderr=wide,
        result=wide,
        error=GuestException(wide[:256], long, long),
        variables=(wide[:256],) * 1000,
    )
    frame = m.encode(full)
    assert len(frame) <= report_bytes_max(cell, boundary_limits())
