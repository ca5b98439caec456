"""Loops that no exception gets out of end at the hard limit, and the session goes back to before them."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from rlm_wasm import Policy, Sandbox
from rlm_wasm.errors import FuelExhausted, GuestError
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm import operations
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.session import Session, drive
from tests.support.runtime_facts import small_policy
from tests.support.sandbox_facts import MIB, cell_limits, echo

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-163")]

_FOREVER = """
def forever(*ignored):
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
UNCATCHABLE = {
    "a bare except": "forever()",
    "recursion without a limit": "import sys; sys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()",
    "recursion that goes on in its finally": (
        "import sys; sys.setrecursionlimit(1 << 30)\ndef f():\n    try: f()\n    finally: f()\nf()"
    ),
    "a finaliser": "class A:\n    __del__ = forever\nA(); x = 1",
    "a finaliser that raises and makes another": (
        "class A:\n    def __del__(self):\n        self.x = A()\n        raise ValueError\na = A(); del a"
    ),
    "a finaliser with a hook of its own": (
        "import sys; sys.unraisablehook = forever\nclass A:\n    def __del__(self): 1 / 0\na = A(); del a"
    ),
    "a generator that is closed": (
        "def g():\n    try: yield\n    finally: forever()\nx = g(); next(x); x.close()"
    ),
    "a generator that will not close": (
        "def g():\n    while True:\n        try: yield\n        except BaseException: pass\n"
        "x = g(); next(x)\nwhile True:\n    try: x.close()\n    except BaseException: pass"
    ),
    "a weak reference's callback": (
        "import weakref\nclass A: pass\na = A(); w = weakref.ref(a, forever); del a"
    ),
    "a callback of the collector": "import gc; gc.callbacks.append(forever); gc.collect()",
    "an exit function": "import atexit; atexit.register(forever); atexit._run_exitfuncs()",
    "a tracing function": "import sys; sys.settrace(forever)\n(lambda: 0)()",
    "a profiling function": "import sys; sys.setprofile(forever)\n(lambda: 0)()",
    "a monitoring callback": (
        "import sys; m = sys.monitoring; m.use_tool_id(3, 'x')\n"
        "m.register_callback(3, m.events.PY_START, forever)\n"
        "m.set_events(3, m.events.PY_START)\n(lambda: 0)()"
    ),
    "a signal that is ignored": "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass",
    "a signal's handler of its own": "import signal; signal.signal(2, forever)\nwhile True: pass",
    "a thread": "import threading; threading.Thread(target=forever).start()",
    "a coroutine": (
        "import asyncio\nwhile True:\n    try:\n        while True: await asyncio.sleep(0)\n"
        "    except BaseException: pass"
    ),
    "a repr that is shown": "class A:\n    __repr__ = forever\nA()",
    "an exception that is told": "class E(Exception):\n    __str__ = forever\nraise E",
    "a stream that is flushed": "import sys\nclass S:\n    write = flush = forever\nsys.stdout = S()",
    "a loop inside C": "import itertools; sum(itertools.repeat(1))",
    "a loop inside C that keeps nothing": (
        "import itertools, collections; collections.deque(itertools.repeat(0), maxlen=0)"
    ),
}


@pytest.mark.usefixtures("healthy_host")
@pytest.mark.parametrize("source", UNCATCHABLE.values(), ids=UNCATCHABLE.keys())
def test_what_no_exception_ends_costs_its_own_cell_only(
    make_session: Callable[..., Session], source: str
) -> None:
    """A typed limit, and every variable from before; no variable of the cell where it had to be stopped."""
    session, checkpoints = make_session(), Checkpoints()

    def run(cell: str) -> CellResult:
        limits = cell_limits(fuel_max=400_000_000)
        operation = operations.run_cell(
            session, Cell(cell, limits, report_variables=True), 64 * MIB, checkpoints
        )
        result = drive(operation, echo)
        assert isinstance(result, CellResult)
        return result

    assert run("kept = [42]").error is None
    ended = run(_FOREVER + source)
    assert isinstance(ended.error, FuelExhausted), ended
    # Where the interrupt strikes between two `try`, it does end the loop.
    assert ended.session_state is not SessionState.LOST
    after = run("kept, 'forever' in globals()")
    assert (after.outcome, after.result) == (
        "completed",
        f"([42], {ended.session_state is SessionState.ALIVE})",
    )


@pytest.mark.anyio
async def test_a_session_of_a_sandbox_goes_back_as_one_of_a_run_does() -> None:
    """At a hard limit, when the call is cancelled or its answerer fails, the variables are there."""
    policy = small_policy(cell={"fuel_max": 1_000_000_000})

    asked = anyio.Event()

    async def refuse(frame: bytes) -> bytes:
        raise GuestError("not today")

    async def never(frame: bytes) -> bytes:
        asked.set()
        await anyio.sleep_forever()
        return b""

    async with Sandbox(policy) as box, await box.session() as session:
        await session.exec("kept = 42")
        for source in (UNCATCHABLE["recursion without a limit"], "kept = llm_query('?')"):
            result = await session.exec(source, answer_frames=refuse)
            assert result.session_state == "restored", result
            assert (await session.exec("kept")).result == "42"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: session.exec("kept = llm_query('?')", answer_frames=never))
            await asked.wait()
            tasks.cancel_scope.cancel()
        assert (await session.exec("kept")).result == "42"


@pytest.mark.anyio
async def test_an_input_larger_than_what_is_kept_of_a_state_is_still_there() -> None:
    """It belongs to what the session began with, not to what its cells wrote."""
    policy = small_policy(cell={"fuel_max": 1_000_000_000}, sandbox={"checkpoint_bytes_max": 4 * MIB})
    async with Sandbox(policy) as box, await box.session() as session:
        await session.load("context", "x" * (20 * MIB))
        await session.exec("kept = len(context)")
        result = await session.exec(UNCATCHABLE["recursion without a limit"])
        assert result.session_state == "restored"
        assert (await session.exec("kept, context[-1]")).result == "(20971520, 'x')"


@pytest.mark.anyio
async def test_where_nothing_is_kept_the_session_is_lost() -> None:
    """A policy that keeps no state has it so."""
    policy = small_policy(cell={"fuel_max": 1_000_000_000}, sandbox={"checkpoint_bytes_max": 0})
    async with Sandbox(policy) as box, await box.session() as session:
        result = await session.exec(UNCATCHABLE["recursion without a limit"])
        assert result.session_state == "lost"


def test_the_built_in_policies_keep_the_state_before_a_cell() -> None:
    for name in ("strict", "standard"):
        assert Policy.builtin(name).sandbox.checkpoint_bytes_max > 0
