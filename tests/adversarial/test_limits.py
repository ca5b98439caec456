"""Model-written code that asks for too much: each way has its own outcome, and the host lives on.

A cell that lets itself be interrupted keeps its session; one that swallows the interrupt loses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import FLOOD_FACTOR
from rlm_wasm.results import CellResult
from rlm_wasm.vm.entropy import seeded_entropy
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import MIB, Recorder, completed, run_cell

pytestmark = pytest.mark.guest

NS_PER_MS = 1_000_000
# "in under 2 s beyond its limit"
GRACE_NS = 2_000_000_000


@dataclass(frozen=True)
class Case:
    """A program, how it ends, and whether its session is lost."""

    source: str
    outcome: str
    lost: bool
    type_name: str = ""
    fuel: int = 1_500_000_000


CASES = {
    "endless loop": Case("while True: pass", "fuel_exhausted", lost=False),
    "endless loop that swallows": Case(
        "while True:\n try:\n  while True: pass\n except BaseException: pass", "fuel_exhausted", lost=True
    ),
    "huge str": Case("'a' * 10**9", "memory_exceeded", lost=False),
    "str beyond the address space": Case("'a' * 10**10", "memory_exceeded", lost=False),
    "huge list": Case("[0] * 10**8", "memory_exceeded", lost=False),
    "growing str": Case("s = 'x'\nwhile True: s += s", "memory_exceeded", lost=False),
    "small objects": Case("x = []\nwhile True: x.append([1])", "memory_exceeded", lost=False),
    "small objects kept by a frame": Case(
        "def f():\n x = None\n while True: x = (x,)\nf()", "memory_exceeded", False, fuel=10**10
    ),
    "dict bomb": Case("d = {}\nfor i in range(10**9): d[i] = 'x' * i", "memory_exceeded", lost=False),
    "recursion": Case("def f(): f()\nf()", "guest_exception", False, "RecursionError"),
    "recursion through repr": Case(
        "a = []\nfor _ in range(10**5): a = [a]\nrepr(a)", "guest_exception", False, "RecursionError", 10**10
    ),
    "recursion that is swallowed": Case(
        "def f():\n try: f()\n finally: f()\nf()", "fuel_exhausted", lost=True
    ),
    "print of a gigabyte": Case("print('x' * 10**9)", "memory_exceeded", lost=False),
    "print of more than the cap": Case("print('x' * 10**7)", "output_exceeded", lost=True),
    "print flood": Case("while True: print('y' * 100)", "output_exceeded", lost=False),
    "stderr flood": Case("import sys\nwhile True: sys.stderr.write('y' * 100)", "output_exceeded", False),
    "raw stdout flood": Case("import os\nwhile True: os.write(1, b'y' * 100)", "output_exceeded", lost=False),
    "catastrophic regex": Case("import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')", "fuel_exhausted", False),
    "big power": Case("9 ** 9 ** 9", "fuel_exhausted", lost=False),
    "memory copies": Case("b = bytearray(8_000_000)\nwhile True: bytes(b)", "fuel_exhausted", lost=False),
    "sleep over the limit": Case("import time\ntime.sleep(2)", "deadline_exceeded", lost=False),
    "many sleeps over the limit": Case(
        "import time\nwhile True: time.sleep(0.3)", "deadline_exceeded", lost=False
    ),
    "sleep that goes on though it was told": Case(
        "import time\nwhile True:\n try: time.sleep(2)\n except BaseException: pass",
        "deadline_exceeded",
        lost=True,
    ),
    "process exit": Case("import os\nos._exit(3)", "guest_trap", lost=True),
    "abort": Case("import os\nos.abort()", "guest_trap", lost=True),
    "system exit": Case("import sys\nsys.exit(3)", "guest_exception", False, "SystemExit"),
    "file": Case("open('/etc/passwd')", "guest_exception", False, "FileNotFoundError"),
    "folder": Case("import os\nos.listdir('/etc')", "guest_exception", False, "FileNotFoundError"),
    "fd": Case("import os\nos.read(9, 100)", "guest_exception", False, "OSError"),
    "socket": Case("import socket\nsocket.socket()", "guest_exception", False, "OSError"),
    "subprocess": Case("import subprocess\nsubprocess.run(['ls'])", "guest_exception", False, ""),
    "ctypes": Case("import ctypes", "guest_exception", False, "ModuleNotFoundError"),
    "package": Case("import numpy", "guest_exception", False, "ModuleNotFoundError"),
    "code object from bytes": Case(
        "f = lambda: 0\nf.__code__ = f.__code__.replace(co_code=b'\\x7f\\xff' * 50, co_stacksize=1)\nf()",
        "",
        True,
    ),
}


@pytest.mark.threat("T-002", "T-003", "T-004", "T-005", "T-006")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_excess_has_its_own_outcome_and_the_host_lives(
    make_session: Callable[..., Session], case: Case
) -> None:
    session = make_session(memory_bytes_max=64 * MIB)
    result = run_cell(session, case.source, fuel_max=case.fuel, wall_ms_max=20_000)
    if not case.outcome:  # undefined for CPython: anything but a crash of the host
        assert result.outcome in (
            "guest_trap",
            "guest_exception",
            "fuel_exhausted",
            "completed",
            "memory_exceeded",
        )
    else:
        assert result.outcome == case.outcome, result.error
        assert (result.session_state is SessionState.LOST) == case.lost
        assert session.lost == case.lost
    if case.type_name:
        assert isinstance(result.error, GuestException)
        assert result.error.type_name == case.type_name
    assert result.fuel_used <= case.fuel
    assert result.memory_peak_bytes <= 64 * MIB
    if case.outcome and not case.lost:
        completed(session, "a = b = d = s = x = None")  # even a full memory leaves room to say so
        assert completed(session, "'x'; 6 * 7").result == "42"
    assert completed(make_session(), "6 * 7").result == "42"


@pytest.mark.threat("T-002")
@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
        "b = bytearray(20_000_000)\nwhile True: bytes(b)",
        "import time\nwhile True: time.time()",
        "import os\nwhile True: os.urandom(1)",
    ],
)
def test_the_deadline_ends_a_cell_that_has_fuel_left(session: Session, source: str) -> None:
    # Long enough that the part of it which is kept for unwinding does for a machine that is busy.
    result = run_cell(session, source, wall_ms_max=2_000, fuel_max=10**15)
    assert result.outcome == "deadline_exceeded"
    assert result.executed_ns < 2_000 * NS_PER_MS + GRACE_NS
    assert completed(session, "6 * 7").result == "42"  # it was asked first, and unwound


@pytest.mark.parametrize(("source", "stream"), [("sys.stdout", "stdout"), ("sys.stderr", "stderr")])
@pytest.mark.threat("T-004")
def test_output_at_the_cap_is_kept_and_one_byte_more_ends_the_cell(
    make_session: Callable[..., Session], source: str, stream: str
) -> None:
    def write(count: int) -> CellResult:
        program = f"import sys\n{source}.write('x' * {count})"
        return run_cell(make_session(), program + "\nNone", stdout_bytes_max=1000, stderr_bytes_max=1000)

    at_cap = write(1000)
    assert (at_cap.outcome, len(getattr(at_cap, stream))) == ("completed", 1000)
    over = write(1001)
    assert over.outcome == "output_exceeded"
    assert len(getattr(over, stream)) == 1000
    assert stream in str(over.error)


@pytest.mark.threat("T-004")
def test_a_character_cut_by_the_cap_is_replaced(session: Session) -> None:
    result = run_cell(session, "print('é' * 10)", stdout_bytes_max=9)
    assert (result.outcome, result.stdout) == ("output_exceeded", "éééé\ufffd")


@pytest.mark.threat("T-004")
def test_result_is_cut_at_its_cap_and_the_cell_completes(session: Session) -> None:
    result = run_cell(session, "'x' * 500", result_bytes_max=100)
    assert (result.outcome, result.result) == ("completed", "'" + "x" * 99)
    assert not session.lost


@pytest.mark.threat("T-007")
@pytest.mark.parametrize(
    ("source", "outcome", "lost"),
    [
        ("while True:\n try: llm_query('x')\n except QueryError: pass", "requests_exceeded", False),
        ("while True:\n try: FINAL('x' * 10**6)\n except Exception: pass", "requests_exceeded", False),
        ("while True:\n try: llm_query('x')\n except BaseException: pass", "boundary_violation", True),
        ("import _rlm\nwhile True: _rlm.call(b'nonsense')", "requests_exceeded", False),
    ],
)
def test_a_cell_that_asks_on_and_on_is_asked_to_end_and_one_that_goes_on_is_a_violation(
    session: Session, source: str, outcome: str, lost: bool
) -> None:
    """The host denies what is over `requests_max`; far over it nobody looks any more, whoever answers."""
    host_calls = []

    def deny(frame: bytes) -> bytes:
        host_calls.append(frame)
        return b'{"status":"denied","error":{"type":"QueryError","message":"no"}}'

    result = run_cell(session, source, deny, requests_max=5, fuel_max=60_000_000_000)
    assert result.outcome == outcome
    assert len(host_calls) == (0 if "FINAL" in source else FLOOD_FACTOR * 5)
    assert session.lost == lost


@pytest.mark.threat("T-007")
def test_the_requests_of_the_next_cell_are_counted_from_zero(session: Session) -> None:
    for _ in range(FLOOD_FACTOR + 2):
        assert run_cell(session, "llm_query('x')", requests_max=1).outcome == "completed"


@pytest.mark.threat("T-012")
def test_a_frame_over_the_cap_never_leaves_the_guest_whose_code_is_told(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(boundary={"frame_bytes_max": 5_000})
    host = Recorder()
    assert run_cell(session, "len(llm_query('x' * 4_900))", host).result == "4900"
    for source in (
        "llm_query('x' * 5_000)", "llm_query_batched(['x' * 3_000] * 2)", "rlm_query('x' * 5_000)",
        "FINAL('x' * 5_000)", "answer.update(content='x' * 5_000, ready=True)",
        "import json, _rlm, rlm_queries\nraise rlm_queries._failure(json.loads(_rlm.call(bytes(5_001))))",
    ):  # fmt: skip
        result = run_cell(session, source, host)
        assert isinstance(result.error, GuestException)
        assert result.error.type_name == "LimitExceeded"
        assert re.search(r"a request of \d+ bytes; boundary.frame_bytes_max allows 5000", str(result.error))
    assert len(host.requests) == 1
    assert not session.lost


def test_fuel_is_the_same_over_ten_fresh_sessions(make_session: Callable[..., Session]) -> None:
    source = (
        "import json, random\n"
        "d = {str(i): [i] * 3 for i in range(500)}\n"
        "text = json.dumps(d)\nprint(len(text))\n"
        "llm_query(text[:10])\n"
        "random.random() < 2, sorted(set(text))"
    )
    used = {completed(make_session(), source).fuel_used for _ in range(10)}
    assert len(used) == 1
    seeded = {completed(make_session(entropy=seeded_entropy(1, 1)), source).fuel_used for _ in range(3)}
    assert seeded == used


@pytest.mark.threat("T-026")
def test_sessions_do_not_see_each_other(make_session: Callable[..., Session]) -> None:
    first, second = make_session(), make_session()
    completed(first, "import json\njson.secret = 'mine'\nimport builtins\nbuiltins.secret = 'mine'")
    result = completed(second, "import json, builtins\nhasattr(json, 'secret'), hasattr(builtins, 'secret')")
    assert result.result == "(False, False)"
    assert completed(first, "secret").result == "'mine'"


@pytest.mark.threat("T-026")
def test_a_secret_left_in_memory_is_not_in_the_next_session(make_session: Callable[..., Session]) -> None:
    """A new session's free memory is zeros: nothing of the one before, mapped at the same address or not."""
    first = make_session()
    completed(first, "x = [b'SECRET-MARK' * 1000 for _ in range(1000)]")
    first.close()
    looked = completed(make_session(), "import _rlm\nb = bytearray(30_000_000)\nb.count(b'SECRET-MARK')")
    assert looked.result == "0"


@pytest.mark.threat("T-022")
@pytest.mark.parametrize(
    "source",
    [
        "import _rlm; _rlm.emit = None; 5",
        "import rlm_repl; rlm_repl.run_cell = None",
        "import rlm_repl; rlm_repl._restore = None",
        "import rlm_repl; rlm_repl._dumps = lambda d: 'nonsense'",
        "import rlm_repl; rlm_repl._dumps = lambda d: '{\"variables\": [' + '\"x\",' * 50_000 + '\"y\"]}'",
        "import rlm_repl; rlm_repl._dumps = lambda d: 'x' * 1_000_000",
        "import rlm_repl; rlm_repl._streams = None",
        "import rlm_display; rlm_display.describe = lambda e: ('T' * 10**6, 5, None)\n1/0",
        "import _rlm; _rlm.emit(4, b'{}'); _rlm.emit(5, b'[]')",
        "import _rlm; _rlm.emit(3, b'\\xff\\xfe result')",
        "import sys; sys.modules.clear()",
        "import builtins; builtins.__dict__.clear()",
        "import gc, rlm_repl\nfor o in gc.get_objects():\n try: o.clear()\n except BaseException: pass",
    ],
)
def test_a_rewritten_repl_harms_its_own_session_only(
    make_session: Callable[..., Session], source: str
) -> None:
    session = make_session()
    for cell in (source, "1", "1/0"):
        result = run_cell(session, cell, fuel_max=1_500_000_000)
        assert result.outcome in (
            "completed", "guest_exception", "guest_trap", "boundary_violation", "fuel_exhausted",
            "memory_exceeded",
        )  # fmt: skip
        if result.session_state is not SessionState.ALIVE:
            break
    assert completed(make_session(), "6 * 7").result == "42"
