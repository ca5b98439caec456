"""The standard library is there: what has C in it, what needs data, what runs in order, what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.results import CellResult
from rlm_wasm.vm.drive import drive
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import completed, run_cell

pytestmark = pytest.mark.guest

_FILE: Final = Path(__file__).parents[2] / "cases" / "standard_library.toml"
CASES: Final[dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))


def _name(case: dict[str, str]) -> str:
    return " ".join(case["source"].split())[:60]


def shows(session: Session, group: str, case: dict[str, str]) -> None:
    completed(session, CASES[group]["setup"])
    assert completed(session, case["source"]).result == case.get("shows")


def traceback_of(result: CellResult) -> str:
    assert isinstance(result.error, GuestException), (result.outcome, result.error)
    return result.error.traceback


def test_every_module_of_the_table_can_be_imported(session: Session) -> None:
    completed(session, "import importlib")
    for name in CASES["modules"].split():
        completed(session, f"importlib.import_module({name!r})")


@pytest.mark.parametrize("module", ["bz2", "lzma", "zlib", "compression.zstd"])
def test_what_is_packed_is_unpacked(session: Session, module: str) -> None:
    source = (
        f"import random, {module} as packer\n"
        "data = random.Random(7).randbytes(20_000) + b'again and again ' * 20_000\n"
        "packed = packer.compress(data)\n"
        "len(packed) < 30_000 and packer.decompress(packed) == data"
    )
    assert completed(session, source).result == "True"


@pytest.mark.parametrize("module", ["bz2", "lzma", "zlib", "compression.zstd"])
def test_damaged_data_is_an_exception(session: Session, module: str) -> None:
    source = (
        f"import {module} as packer\n"
        "packed = bytearray(packer.compress(bytes(range(256)) * 64))\n"
        "for at in range(0, len(packed), 3):\n"
        "    broken = packed[:at] + bytes((packed[at] ^ 255,)) + packed[at + 1:]\n"
        "    for data in (broken, packed[:at]):\n"
        "        try: packer.decompress(data)\n"
        "        except Exception: pass\n"
        "packer.decompress(packed) == bytes(range(256)) * 64"
    )
    assert completed(session, source).result == "True"


@pytest.mark.parametrize("case", CASES["sqlite"]["case"], ids=_name)
def test_sqlite_in_memory(session: Session, case: dict[str, str]) -> None:
    shows(session, "sqlite", case)


@pytest.mark.parametrize("case", CASES["files"]["case"], ids=_name)
def test_databases_and_archives_in_files(session: Session, case: dict[str, str]) -> None:
    shows(session, "files", case)


def test_a_query_without_an_end_is_stopped_and_the_session_goes_back(
    make_session: Callable[..., Session],
) -> None:
    session = make_session()
    completed(session, "import sqlite3\nc = sqlite3.connect(':memory:')\nkept = 1")
    before = drive(session.snapshot())
    assert before is not None
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select sum(x) from n"
    result = run_cell(session, f"c.execute({endless!r}).fetchone()", fuel_max=2_000_000_000)
    assert result.outcome == "fuel_exhausted"
    session.restore(before)
    assert completed(session, "kept, c.execute('select 1').fetchone()").result == "(1, (1,))"


def test_a_database_that_fills_the_memory_is_a_memory_error(make_session: Callable[..., Session]) -> None:
    session = make_session()
    source = (
        "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t(b blob)')\n"
        "try:\n    for _ in range(10_000): c.execute('insert into t values (zeroblob(1000000))')\n"
        "except MemoryError: print('full')\n"
    )
    assert completed(session, source).stdout == "full\n"
    after = "c.close()\ndel c\nsqlite3.connect(':memory:').execute('select 2').fetchone()"
    assert completed(session, after).result == "(2,)"


@pytest.mark.parametrize("case", CASES["zones"]["case"], ids=_name)
def test_time_zones(session: Session, case: dict[str, str]) -> None:
    shows(session, "zones", case)


def test_a_zone_that_is_none_is_the_ordinary_exception(session: Session) -> None:
    for key in ("Mars/North", "Europe", "", "../etc/passwd", "/etc/passwd"):
        result = run_cell(session, f"import zoneinfo\nzoneinfo.ZoneInfo({key!r})")
        assert result.outcome == "guest_exception"
        assert str(result.error).startswith(("ZoneInfoNotFoundError", "ValueError")), (key, result.error)


def test_help_prints_and_comes_back(session: Session) -> None:
    shown = completed(session, "help(len)").stdout
    assert shown.startswith("Help on built-in function len in module builtins:")
    assert "for_stmt" in completed(session, "help('for')").stdout
    assert "FUNCTIONS" in completed(session, "import json\nhelp(json)").stdout


def test_doctest_runs_what_a_cell_defines(session: Session) -> None:
    source = (
        "def twice(x):\n    '''\n    >>> twice(2)\n    4\n    >>> twice(3)\n    7\n    '''\n"
        "    return 2 * x\n"
        "import doctest\ndoctest.testmod()"
    )
    result = completed(session, source)
    assert result.result == "TestResults(failed=1, attempted=2)"
    assert "Expected:\n    7\nGot:\n    6" in result.stdout


# -- in order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["in_order"]["case"], ids=_name)
def test_threads_and_processes_run_in_order(session: Session, case: dict[str, str]) -> None:
    shows(session, "in_order", case)


def test_a_pools_map_over_llm_query_is_one_batch(session: Session) -> None:
    frames: list[bytes] = []

    def answer(frame: bytes) -> bytes:
        frames.append(frame)
        items = b'{"status":"completed","text":"x"},{"status":"completed","text":"y"}'
        return b'{"status":"completed","items":[' + items + b"]}"

    source = "from multiprocessing.pool import ThreadPool\nThreadPool(8).map(llm_query, ['a', 'b'])"
    assert completed(session, source, answer=answer).result == "['x', 'y']"
    assert len(frames) == 1


@pytest.mark.parametrize(
    "start",
    [
        "import threading\nthreading.Thread(target=work, name='T').start()",
        "import multiprocessing\nmultiprocessing.Process(target=work, name='T').start()",
        "import _thread\n_thread.start_new_thread(work, ())",
        "import threading\nthreading.Timer(0.01, work).start()",
    ],
)
def test_what_ends_a_thread_ends_its_cell(session: Session, start: str) -> None:
    source = f"def work(): raise KeyError('lost')\n{start}\nafter = 1\nafter"
    result = run_cell(session, source)
    assert result.outcome == "guest_exception"
    assert "KeyError: 'lost'" in str(result.error)
    assert result.result == "1"
    assert "where nothing caught it" in traceback_of(result)
    assert completed(session, "after").result == "1"


def test_a_hook_of_the_cells_own_hears_of_it_instead(session: Session) -> None:
    source = (
        "import threading\nheard = []\nbefore = threading.excepthook\n"
        "threading.excepthook = lambda args: heard.append(args.exc_type.__name__)\n"
        "threading.Thread(target=lambda: 1 / 0).start()\nthreading.excepthook = before\nheard"
    )
    assert completed(session, source).result == "['ZeroDivisionError']"


@pytest.mark.parametrize("case", CASES["timers"]["case"], ids=_name)
def test_timers_go_off_while_the_cell_waits(session: Session, case: dict[str, str]) -> None:
    shows(session, "timers", case)


def test_a_timer_goes_off_at_its_cells_end_and_the_next_one_it_sets_later(session: Session) -> None:
    completed(
        session,
        "import threading\nseen = []\n"
        "def tick():\n    seen.append(1)\n    threading.Timer(0.01, tick).start()\n"
        "threading.Timer(0.01, tick).start()",
    )
    assert completed(session, "len(seen)").result == "1"
    assert completed(session, "len(seen)").result == "2"


@pytest.mark.parametrize("case", CASES["threads"]["case"], ids=lambda case: case["name"])
def test_threads_wait_for_each_other(session: Session, case: dict[str, str]) -> None:
    if "told" in case:
        assert case["told"] in traceback_of(run_cell(session, case["source"]))
    else:
        assert completed(session, case["source"]).result == case["shows"]
    assert completed(session, "1").result == "1"


def test_a_thread_that_waits_has_work_in_later_cells(session: Session) -> None:
    completed(
        session,
        "import queue, threading\nq, seen = queue.Queue(), []\n"
        "def worker():\n    while True:\n        seen.append(q.get())\n        q.task_done()\n"
        "threading.Thread(target=worker).start()\nq.put(1)",
    )
    assert completed(session, "before = seen[:]\nq.put(2)\nq.join()\nq.put(3)\nbefore, seen").result == (
        "([1], [1, 2, 3])"
    )
    run_cell(session, "q.put(4)\n1 / 0")
    assert completed(session, "q.join()\nseen").result == "[1, 2, 3, 4]"


def test_a_thread_that_sleeps_for_ever_ends_with_the_cell_that_waits_for_it(session: Session) -> None:
    source = (
        "import threading, time\ndef beat():\n    while True:\n        time.sleep(0.2)\n"
        "threading.Thread(target=beat).start()\n'begun'"
    )
    result = run_cell(session, source, fuel_max=500_000_000)
    assert result.outcome in ("deadline_exceeded", "fuel_exhausted")
    assert completed(session, "'next'").result == "'next'"


def test_sleep_is_no_method_where_a_class_keeps_it(session: Session) -> None:
    source = (
        "import time\nclass A: nap = time.sleep\nA().nap(0.5)\nA.nap(0)\ntold = []\n"
        "for bad in (-1, 'x'):\n    try: time.sleep(bad)\n"
        "    except Exception as e: told.append(type(e).__name__)\n"
        "told, round(time.monotonic(), 1) >= 0.5, time.sleep.__name__"
    )
    assert completed(session, source).result == "(['ValueError', 'TypeError'], True, 'sleep')"


# -- what is not here ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["not_here"]["case"], ids=_name)
def test_what_is_not_here_says_what_to_do_instead(session: Session, case: dict[str, str]) -> None:
    result = run_cell(session, case["source"])
    assert result.outcome == "guest_exception", (result.outcome, result.error)
    assert case["told"] in traceback_of(result)
    assert completed(session, "1").result == "1"


@pytest.mark.parametrize("case", CASES["asked"]["case"], ids=_name)
def test_who_only_asks_gets_the_ordinary_answer(session: Session, case: dict[str, str]) -> None:
    assert completed(session, case["source"]).result == "True"


def test_sqlite_between_python_and_itself_ends_in_an_exception(make_session: Callable[..., Session]) -> None:
    """A function of Python's that a query calls, which queries again: without an end."""
    session = make_session()
    source = (
        "import sqlite3\ndef again(n):\n    c = sqlite3.connect(':memory:')\n"
        "    c.create_function('again', 1, again)\n"
        "    return c.execute('select again(?)', (n + 1,)).fetchone()[0]\nagain(0)"
    )
    result = run_cell(session, source)
    assert result.outcome == "guest_exception", (result.outcome, result.error)
    assert completed(session, "1").result == "1"


@pytest.mark.parametrize("case", CASES["notebook"]["case"], ids=_name)
def test_a_line_of_a_notebook_is_told_and_no_other(session: Session, case: dict[str, Any]) -> None:
    result = run_cell(session, case["source"])
    lines = traceback_of(result).splitlines()
    if "line" not in case:
        assert lines[-1] == case["told"]
        return
    assert lines[0] == f'  File "<cell 1>", line {case["at"]}'
    assert lines[1].strip() == case["line"]
    assert lines[-1].startswith("SyntaxError: invalid syntax: ")
    assert case["told"] in lines[-1]
    assert isinstance(result.error, GuestException)
    assert case["told"] in result.error.guest_message
    assert completed(session, "1").result == "1"


def test_display_prints_values_as_a_notebook_does(session: Session) -> None:
    result = completed(session, "display([1], 'a', None)\ndisplay('x' * 100_000)")
    first, second, third, cut = result.stdout.splitlines()
    assert (first, second, third) == ("[1]", "'a'", "None")
    assert cut.endswith("more]")
    assert completed(session, "display = 3\ndisplay + 1").result == "4"
