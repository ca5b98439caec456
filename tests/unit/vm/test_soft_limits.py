"""A cell is asked to end before it has to: it cleans up and the session lives, or it is stopped."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import CellCancelled, DeadlineExceeded, FuelExhausted, OutputExceeded
from rlm_wasm.limits import CellLimits
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.interrupt import Reason
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.soft_limits import SoftLimits, slice_fuel
from rlm_wasm.vm.steps import CellEnd
from tests.support.sandbox_facts import cell_limits, completed, run_cell

guest = pytest.mark.guest
FUEL = 400_000_000
ENDLESS = {
    "loop": "while True: pass",
    "regex": "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
    "power": "7 ** (10 ** 8)",
    "generator": "sum(i for i in iter(int, 1))",
    # In a function: at module level CPython itself loses the handler of an inlined comprehension's jump.
    "comprehension": "(lambda: [0 for _ in iter(int, 1) if _])()",
    "asyncio": "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())",
    "await": "import asyncio\nwhile True: await asyncio.sleep(0)",
    "clock": "import time\nwhile True: time.time()",
    "entropy": "import os\nwhile True: os.urandom(16)",
    "recursion": "def f(n): return f(n - 1) if n else f(900)\n"
    "while True:\n    try: f(900)\n    except RecursionError: pass",
}


@guest
@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_cell_without_end_runs_its_finally_and_leaves_the_session(session: Session, source: str):
    completed(session, "kept = 'here'")
    body = "\n".join("    " + line for line in source.splitlines())
    result = run_cell(session, f"try:\n{body}\nfinally:\n    print('cleaned')", fuel_max=FUEL)
    assert isinstance(result.error, FuelExhausted), result
    assert result.stdout == "cleaned\n"
    assert result.session_state is SessionState.ALIVE
    assert result.fuel_used < FUEL
    assert completed(session, "kept").result == "'here'"


@guest
def test_the_traceback_says_where_the_cell_was(session: Session):
    result = run_cell(session, "def spin():\n    while True:\n        pass\nspin()", fuel_max=FUEL)
    assert result.error is not None
    assert "in spin" in result.error.traceback
    assert result.error.traceback.rstrip().endswith("FuelExhausted")


@guest
@pytest.mark.parametrize(
    "source",
    [
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import rlm_repl; rlm_repl._INTERRUPTS.clear(); rlm_repl._on_interrupt = None\n"
        "import signal; signal.signal(2, lambda *a: None)\nwhile True: pass",
    ],
)
def test_a_guest_that_ignores_it_meets_the_hard_limit(session: Session, source: str):
    result = run_cell(session, source, fuel_max=FUEL)
    assert isinstance(result.error, FuelExhausted)
    assert result.fuel_used == FUEL
    assert result.session_state is not SessionState.ALIVE


@guest
def test_the_same_program_is_interrupted_at_the_same_fuel(make_session):
    programs = ("while True: pass", "import time\nwhile True: time.time()", "while True: print('x')")
    for source in programs:
        used = {run_cell(make_session(), source, fuel_max=FUEL).fuel_used for _ in range(5)}
        assert len(used) == 1, source


@guest
def test_the_deadline_interrupts_before_it_stops(session: Session):
    source = "try:\n    while True: pass\nfinally: print('cleaned')"
    result = run_cell(session, source, fuel_max=10**12, wall_ms_max=400)
    assert isinstance(result.error, DeadlineExceeded)
    assert result.stdout == "cleaned\n"
    assert result.session_state is SessionState.ALIVE


@guest
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_of_output_is_cut_and_interrupted(session: Session, stream: str):
    source = f"import sys\nn = 0\nwhile True:\n    n += 1\n    print('x' * 99, file=sys.{stream})"
    result = run_cell(session, source, stdout_bytes_max=5_000, stderr_bytes_max=5_000)
    assert isinstance(result.error, OutputExceeded)
    assert len(getattr(result, stream)) == 5_000
    assert result.session_state is SessionState.ALIVE
    # Noticed at the first write beyond the cap: a buffer of 8 KiB or two, not the flood.
    assert int(completed(session, "n").result or 0) < 1_000


@guest
def test_output_cut_at_the_end_of_a_cell_is_not_called_complete(session: Session):
    result = run_cell(session, "print('x' * 6_000)", stdout_bytes_max=5_000)
    assert isinstance(result.error, OutputExceeded)
    assert result.session_state is SessionState.ALIVE
    assert completed(session, "print('y' * 4_999)", stdout_bytes_max=5_000).stdout == "y" * 4_999 + "\n"


@guest
def test_a_guest_that_writes_on_after_the_interrupt_is_stopped(session: Session):
    flood = "while True: os.write(1, b'x' * 60_000)"
    source = f"import os\nwhile True:\n    try:\n        {flood}\n    except BaseException: pass"
    result = run_cell(session, source, stdout_bytes_max=5_000)
    assert isinstance(result.error, OutputExceeded)
    assert result.session_state is not SessionState.ALIVE


@guest
def test_an_interrupt_too_late_for_its_cell_does_not_hit_the_next(session: Session):
    for _ in range(20):
        run_cell(session, "print('x' * 6_000)", stdout_bytes_max=5_000)
        assert completed(session, "sum(range(1000))").result == "499500"


def _cancelled(session: Session, source: str, *, after: int) -> CellResult:
    """Drive a cell, interrupting it after some steps."""
    operation = session.run(Cell(source, cell_limits(fuel_max=10**11), report_variables=True))
    try:
        for _ in range(after):
            next(operation)
        session.interrupt()
        while True:
            next(operation)
    except StopIteration as stop:
        return decode_cell(stop.value)


@guest
def test_a_cancelled_cell_unwinds_and_the_session_lives(session: Session):
    result = _cancelled(session, "try:\n    while True: pass\nfinally: print('bye')", after=3)
    assert result.outcome == "cancelled"
    assert result.stdout == "bye\n"
    assert result.session_state is SessionState.ALIVE
    assert completed(session, "1 + 1").result == "2"


@guest
def test_a_cell_that_ignores_its_cancellation_is_stopped(session: Session):
    source = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    result = _cancelled(session, source, after=3)
    assert result.outcome == "cancelled"
    assert result.session_state is not SessionState.ALIVE


@guest
def test_cancelling_between_cells_does_nothing(session: Session):
    session.interrupt()
    assert completed(session, "1 + 1").result == "2"


def test_soft_limits_leave_an_eighth_and_never_more_than_a_bound():
    small = SoftLimits.of(cell_limits(fuel_max=80, wall_ms_max=800))
    assert (small.fuel, small.wall_ns) == (70, 700_000_000)
    large = SoftLimits.of(cell_limits(fuel_max=10**12, wall_ms_max=10**6))
    assert large.fuel == 10**12 - 10**9
    assert large.wall_ns == 10**12 - 5 * 10**8


def test_fuel_interrupts_only_where_fuel_stopped_the_guest():
    limits = SoftLimits.of(cell_limits(fuel_max=80, wall_ms_max=800))
    assert limits.reached(fuel_used=69, executed_ns=0, cancelled=False) is None
    assert limits.reached(fuel_used=None, executed_ns=0, cancelled=False) is None
    reached = limits.reached(fuel_used=70, executed_ns=0, cancelled=False)
    assert reached is not None
    assert reached[0] is Reason.FUEL


def test_a_slice_is_much_shorter_than_what_is_kept_for_cleaning_up():
    for fuel_max in (10**8, 10**9, 10**10, 6 * 10**10, 10**12):
        kept = fuel_max - SoftLimits.of(cell_limits(fuel_max=fuel_max)).fuel
        assert slice_fuel(fuel_max, 50_000_000) * 4 <= kept


def _end(session: Session, source: str, limits: CellLimits, *, interrupt: bool = False) -> CellEnd:
    operation = session.run(Cell(source, limits))
    try:
        for _ in range(20_000):
            next(operation)
            if interrupt and session._execution is not None and session._execution.soft is not None:
                session.interrupt()
    except StopIteration as stop:
        end: CellEnd = stop.value
        return end
    raise AssertionError("the cell goes on")


@guest
@pytest.mark.threat("T-121")
def test_a_cancellation_counts_for_a_cell_that_ignored_an_earlier_interrupt(session: Session):
    written = "print('x' * 100_000)\n        while True: pass"
    swallow = f"while True:\n    try:\n        {written}\n    except BaseException: pass"
    end = _end(session, swallow, cell_limits(wall_ms_max=3_600_000, fuel_max=10**13), interrupt=True)
    assert isinstance(end.soft, OutputExceeded)
    assert isinstance(end.fault, CellCancelled)


@guest
@pytest.mark.threat("T-121")
def test_many_short_sleeps_take_the_time_that_they_take_on_the_wall(make_session):
    """Each takes a fraction of a millisecond more than it asks for: here ten times as long."""
    session = make_session(clock="real")
    source = "import time\nwhile True: time.sleep(1e-4)"
    result = run_cell(session, source, wall_ms_max=500, sleep_ms_max=1_000)
    assert "ran longer than 500 ms" in str(result.error)
