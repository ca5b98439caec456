"""What a worker may end an operation by, whatever name it sends, and what its host makes of it."""

from __future__ import annotations

import itertools

import pytest

from rlm_wasm import errors
from rlm_wasm.errors import BoundaryViolation, HostExhausted, RlmWasmError, UsageError, WorkerLost
from rlm_wasm.host.endings import ERRORS, Operation, check_error, error_of
from rlm_wasm.protocol import worker_messages as m

EVERY_ERROR = sorted(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RlmWasmError)
)
# What reaches a caller because a worker said so: nothing that speaks of a policy, a file or a bug of ours.
FROM_A_WORKER = (errors.GuestError, HostExhausted)


def test_every_operation_has_its_row() -> None:
    assert set(ERRORS) == set(Operation)


@pytest.mark.threat("T-122")
@pytest.mark.parametrize(("operation", "kind"), [*itertools.product(Operation, EVERY_ERROR)])
def test_no_name_that_a_worker_sends_chooses_what_its_host_raises(operation: Operation, kind: str) -> None:
    report = m.ErrorReport(kind, "made up")
    try:
        check_error(operation, report, frozenset(), lost=False)
    except BoundaryViolation:
        assert kind not in ERRORS[operation]
        return
    error = error_of(report, in_cell=operation is Operation.RUN)
    assert isinstance(error, FROM_A_WORKER)
    if kind == "InternalError":
        assert isinstance(error, WorkerLost)
    if operation is Operation.RUN:
        assert isinstance(error, WorkerLost)


@pytest.mark.threat("T-122")
def test_only_who_was_told_to_end_says_so_and_only_a_lost_session_that_it_is_lost() -> None:
    cancelled, lost = m.ErrorReport("CellCancelled", "x"), m.ErrorReport("UsageError", "wrong\x1b[31m text")
    check_error(Operation.RUN, cancelled, {"CellCancelled"}, lost=False)
    check_error(Operation.RUN, lost, frozenset(), lost=True)
    error = error_of(lost, in_cell=True)
    assert type(error) is UsageError
    assert str(error) == "the session is lost"


@pytest.mark.threat("T-122")
def test_what_a_worker_says_is_one_line_of_what_can_be_shown() -> None:
    said = m.ErrorReport("HostExhausted", "a\n\x1b]0;b\x07\u202ec", hint="d\re")
    error = error_of(said, in_cell=False)
    assert error.message == "a\ufffd\ufffd]0;b\ufffd\ufffdc"
    assert error.hint == "d\ufffde"
