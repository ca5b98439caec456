"""A guest has one thread: a wait for another is a Python exception, and the session lives."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.outcomes import SessionState
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import completed, run_cell

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-019")]

FOR_EVER = {
    "a lock taken twice": "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()",
    "a lock taken twice by with": "import threading\nl = threading.Lock()\nwith l:\n with l: pass",
    "the lock of _thread": "import _thread\nl = _thread.allocate_lock()\nl.acquire()\nl.acquire()",
    "an empty queue": "import queue\nqueue.Queue().get()",
    "a full queue": "import queue\nq = queue.Queue(1)\nq.put(1)\nq.put(2)",
    "an empty simple queue": "import queue\nqueue.SimpleQueue().get()",
    "the queue of _queue": "import _queue\n_queue.SimpleQueue().get()",
    "a queue that is never joined": "import queue\nq = queue.Queue()\nq.put(1)\nq.join()",
    "an event": "import threading\nthreading.Event().wait()",
    "a condition": "import threading\nc = threading.Condition()\nwith c: c.wait()",
    "a semaphore": "import threading\nthreading.Semaphore(0).acquire()",
    "a barrier": "import threading\nthreading.Barrier(2).wait()",
    "a future": "import concurrent.futures\nconcurrent.futures.Future().result()",
    "an asyncio event": "import asyncio\nawait asyncio.Event().wait()",
}


@pytest.mark.parametrize("source", FOR_EVER.values(), ids=FOR_EVER.keys())
def test_a_deadlock_is_an_exception_that_says_so(session: Session, source: str) -> None:
    completed(session, "kept = 1")
    result = run_cell(session, source)
    assert isinstance(result.error, GuestException)
    assert result.error.type_name == "RuntimeError"
    assert "deadlock" in str(result.error)
    assert result.session_state is SessionState.ALIVE
    caught = "try:\n" + "".join(f"    {line}\n" for line in source.splitlines() if "await" not in line)
    completed(session, caught + "    pass\nexcept RuntimeError: pass\nkept")
    assert completed(session, "kept").result == "1"


WITH_A_TIMEOUT = {
    "import queue\ntry: queue.Queue().get(timeout=0.5)\nexcept queue.Empty: x = 'empty'\nx": "'empty'",
    "import threading\nthreading.Event().wait(0.5)": "False",
    "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire(timeout=0.5)": "False",
    "import threading\nl = threading.Lock()\nl.acquire(), l.acquire(False)": "(True, False)",
}


@pytest.mark.parametrize(("source", "result"), WITH_A_TIMEOUT.items())
def test_a_wait_with_a_timeout_sleeps_and_gives_up(session: Session, source: str, result: str) -> None:
    timed = f"import time\nbegan = time.monotonic()\n{source}"
    assert completed(session, timed).result == result
    slept = completed(session, "round(time.monotonic() - began, 1)").result
    assert slept == ("0.0" if "False)" in source else "0.5")


def test_a_wait_longer_than_the_policy_allows_is_interrupted(session: Session) -> None:
    result = run_cell(session, "import threading\nthreading.Event().wait(5)", sleep_ms_max=1_000)
    assert (result.outcome, result.session_state) == ("deadline_exceeded", "alive")


def test_a_lock_is_one_in_every_other_way(session: Session) -> None:
    source = (
        "import threading, copy\nl = threading.Lock()\nseen = []\n"
        "with l as taken: seen += [taken, l.locked()]\nseen.append(l.locked())\n"
        "for bad in ('l.release()', 'l.acquire(False, 1)', 'l.acquire(True, -2)', 'copy.copy(l)'):\n"
        "    try: eval(bad)\n    except Exception as e: seen.append(type(e).__name__)\n"
        "seen"
    )
    wanted = "[True, True, False, 'RuntimeError', 'ValueError', 'ValueError', 'TypeError']"
    assert completed(session, source).result == wanted


def test_a_sleep_over_the_limit_is_an_exception_and_finally_runs(session: Session) -> None:
    source = "import time\ntry: time.sleep(2)\nfinally: print('unwound')"
    result = run_cell(session, source, sleep_ms_max=1_000)
    assert (result.outcome, result.session_state) == ("deadline_exceeded", "alive")
    assert result.stdout == "unwound\n"
    assert "time.sleep(2)" in str(getattr(result.error, "traceback", ""))
    assert completed(session, "time.monotonic() < 1").result == "True"
