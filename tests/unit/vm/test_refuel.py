"""A cell that is given its fuel in parts: the same cell, and never more than it was given."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import FuelExhausted, InternalError
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import FuelNeeded, Requested
from rlm_wasm.results import CellResult
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import cell_limits, completed, echo, run_cell

pytestmark = pytest.mark.guest
PART = 40_000_000
ENDLESS = "try:\n    while True: pass\nfinally: print('cleaned')"
DEAF = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
# What it does between two looks at its fuel: computes, asks, and uses imports that charge for their work.
BUSY = (
    "import time, os\n"
    "for i in range(400):\n"
    "    sum(range(20_000)); time.time(); os.urandom(8)\n"
    "    if i % 40 == 0: llm_query('?')\n"
    "print(time.time(), i)"
)


def run_in_parts(session: Session, source: str, parts: list[int]) -> tuple[CellResult, int]:
    """Run a cell that gets these parts, and then nothing more; return how often it asked."""
    limits = cell_limits(fuel_max=parts[0], requests_max=10**6)
    operation = session.run(Cell(source, limits, report_variables=True, refuels=True))
    left, asked = iter(parts[1:]), 0
    response: bytes | None = None
    try:
        while True:
            step = operation.send(response)
            response = None
            if isinstance(step, FuelNeeded):
                asked += 1
                session.refuel(next(left, 0))
            elif isinstance(step, Requested):
                response = echo(step.frame)
    except StopIteration as stop:
        return decode_cell(stop.value), asked


def test_in_parts_a_cell_does_the_same_and_uses_the_same(make_session) -> None:
    whole = completed(make_session(), BUSY)
    parts, asked = run_in_parts(make_session(), BUSY, [PART] * 1_000)
    assert (parts.outcome, parts.stdout) == ("completed", whole.stdout)
    assert parts.fuel_used == whole.fuel_used
    assert parts.fuel_used // PART <= asked < 2 * parts.fuel_used // PART


@pytest.mark.parametrize("source", [ENDLESS, BUSY, "while True: llm_query('?')"], ids=["loop", "busy", "ask"])
def test_what_is_given_in_parts_ends_where_it_would_in_one(make_session, source: str) -> None:
    whole = run_cell(make_session(), source, fuel_max=8 * PART, requests_max=10**6)
    results = [run_in_parts(make_session(), source, [PART] * 8)[0] for _ in range(3)]
    assert len({result.fuel_used for result in results}) == 1, "the same parts, the same end"
    assert isinstance(whole.error, FuelExhausted)
    assert all(isinstance(result.error, FuelExhausted) for result in results)
    assert all(result.session_state is SessionState.ALIVE for result in results)
    assert results[0].fuel_used == pytest.approx(whole.fuel_used, rel=0.1)


def test_a_cell_that_is_refused_cleans_up_and_its_session_lives(session: Session) -> None:
    result, asked = run_in_parts(session, "kept = 1\n" + ENDLESS, [PART, PART])
    assert asked == 2
    assert isinstance(result.error, FuelExhausted)
    assert str(2 * PART) in str(result.error)
    assert (result.stdout, result.session_state) == ("cleaned\n", "alive")
    assert completed(session, "kept").result == "1"


@pytest.mark.threat("T-024")
@pytest.mark.parametrize("parts", [[PART], [PART, 1], [PART, 5, PART], [1_000_000, 100_000, 3_000_000]])
def test_a_deaf_guest_uses_what_it_was_given_and_not_a_bit_more(session: Session, parts: list[int]) -> None:
    result, _ = run_in_parts(session, DEAF, parts)
    assert isinstance(result.error, FuelExhausted)
    assert result.fuel_used <= sum(parts)
    assert result.session_state is not SessionState.ALIVE


def test_a_cell_that_does_not_refuel_never_asks(session: Session) -> None:
    operation = session.run(Cell(ENDLESS, cell_limits(fuel_max=PART)))
    assert not any(isinstance(step, FuelNeeded) for step in operation)


def test_fuel_that_was_not_asked_for_is_a_bug_of_the_host(session: Session) -> None:
    operation = session.run(Cell(ENDLESS, cell_limits(fuel_max=PART), refuels=True))
    operation.send(None)
    with pytest.raises(InternalError):
        session.refuel(PART)
    while not isinstance(operation.send(None), FuelNeeded):
        pass
    with pytest.raises(InternalError):
        operation.send(None)
