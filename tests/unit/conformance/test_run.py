"""What the guest says while CPython's tests run is looked at line by line, and may be nonsense."""

from __future__ import annotations

import pytest

from rlm_wasm.conformance.run import outcome_lines, said
from rlm_wasm.vm.steps import CellEnd


@pytest.mark.parametrize("line", [b"", b"no JSON", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_a_line_that_is_none_is_left_out(line: bytes) -> None:
    told = b'["begin", "test"]'
    assert list(outcome_lines(b"\n".join((told, line, told)))) == [["begin", "test"]] * 2


def _raised(error: bytes | None) -> CellEnd:
    return CellEnd(True, None, None, False, b"", b"", None, error, None, 0, 0, 0)


@pytest.mark.parametrize("error", [None, b"", b"[]", b'"text"', b'{"type": 1}', b"[" * 100_000])
def test_an_exception_that_is_none_is_said_to_be_unreadable(error: bytes | None) -> None:
    assert said(_raised(error)) == "an exception that cannot be read"


def test_an_exception_is_its_type_and_its_message() -> None:
    assert said(_raised(b'{"type":"ValueError","message":"no","traceback":""}')) == "ValueError: no"
