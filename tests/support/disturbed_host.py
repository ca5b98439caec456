"""An application that has set up its process in some way, and then runs guests:
`python -m tests.support.disturbed_host ISOLATION WHEN WAY...`.

Exits with 0 after it has said what a cell, an exit inside a guest and queries came to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable

_SAID = os.dup(1)


def _nobody_traces(frame: object, event: str, argument: object) -> None:
    code = frame.f_code  # type: ignore[attr-defined]
    if "rlm_wasm" in code.co_filename and code.co_name in ("callback", "on_call", "_call"):
        raise ValueError("of a trace function")


def _no_descriptors() -> None:
    for number in range(3):
        os.close(number)


def _make_noise() -> None:
    """What a library in C that warns would do."""
    for number in range(3):
        with contextlib.suppress(OSError):
            os.write(number, b"a warning\n" * 8)


def _no_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


def _no_alternate_stack() -> None:
    class Stack(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    if ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(None, 2, 0)), None) != 0:
        raise OSError("sigaltstack")


def _ticks() -> None:
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


def _environment() -> None:
    os.environ |= {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONWARNINGS": "error"}
    os.environ |= {"LD_PRELOAD": "/nowhere/lib.so", "LC_ALL": "C", "PYTHONUTF8": "0"}


WAYS: dict[str, Callable[[], object]] = {
    "all signals blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "SIGCHLD ignored": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "SIGTERM and SIGINT ignored": lambda: [
        signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)
    ],
    "SIGPIPE ends it": lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    "a signal each millisecond": _ticks,
    "no alternate stack": _no_alternate_stack,
    "no descriptors": _no_descriptors,
    "no folder": _no_folder,
    "an odd environment": _environment,
    "umask 0777": lambda: os.umask(0o777),
    "warnings are errors": lambda: warnings.simplefilter("error"),
    "little recursion": lambda: sys.setrecursionlimit(230),
    "a trace function that raises": lambda: [
        set_(_nobody_traces) for set_ in (threading.settrace, sys.settrace)
    ],
    "a profile function that raises": lambda: [
        set_(_nobody_traces) for set_ in (threading.setprofile, sys.setprofile)
    ],
    "a frozen collector": gc.freeze,
    "faulthandler before": lambda: __import__("faulthandler").enable(open(os.devnull, "w")),  # noqa: SIM115
}


async def run(isolation: str, later: list[str]) -> None:
    from rlm_wasm import Policy, Sandbox

    policy = Policy.builtin("standard").replace(
        sandbox={"isolation": isolation, "require_lockdown": False}, cell={"requests_max": 10_000}
    )

    async def answer(frame: bytes) -> bytes:
        return b'{"status": "completed", "text": "yes"}'

    async with Sandbox(policy) as box:
        async with await box.session() as session:
            found = [(await session.exec("6 * 7")).result]
            for way in later:
                WAYS[way]()
            if "no descriptors" in sys.argv:
                _make_noise()
            # The event loop runs some of these turns itself, and then one that traps.
            asked = await session.exec(
                "sum(llm_query('x') == 'yes' for _ in range(300))", answer_frames=answer
            )
            found.append(asked.result or asked.outcome)
            ended = await session.exec(
                "for _ in range(50): llm_query('x')\nimport os; os._exit(1)", answer_frames=answer
            )
            found.append(ended.outcome)
        async with await box.session() as session:
            found.append((await session.exec("def f(): f()\nf()")).outcome)
            found.append((await session.exec("1")).result)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(_SAID, " ".join(map(str, found)).encode())


def _take(way: str) -> Callable[[], object]:
    """Take the handler of a trap from the engine; return what gives it back."""
    if way == "faulthandler":
        import faulthandler

        faulthandler.enable()
        return faulthandler.disable
    number, handler = {
        "SIGSEGV's default": (signal.SIGSEGV, signal.SIG_DFL),
        "SIGFPE ignored": (signal.SIGFPE, signal.SIG_IGN),
    }[way]
    # What signal.signal would give back is Python's word for it, not the engine's handler.
    kept = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None)
    libc.sigaction(int(number), None, kept)
    signal.signal(number, handler)
    return lambda: libc.sigaction(int(number), kept, None)


async def refused(way: str) -> None:
    """Take a handler after the first session; say what comes of it."""
    from rlm_wasm import Policy, Sandbox
    from rlm_wasm.errors import UsageError

    give_back: list[Callable[[], object]] = []

    async def answer(frame: bytes) -> bytes:
        give_back.append(_take(way))
        with contextlib.suppress(TimeoutError):  # longer than the engine goes without a look
            async with asyncio.timeout(0.05):
                await asyncio.Event().wait()
        return b'{"status": "completed", "text": "yes"}'

    async with Sandbox(Policy.builtin("standard")) as box, await box.session() as first:
        await first.exec("x = 42")
        back = _take(way)
        try:
            await first.exec("x")
        except UsageError as error:
            print(f"UsageError: {error}")
        back()
        async with await box.session() as second:
            try:
                await second.exec("llm_query('?')\nimport os; os._exit(1)", answer_frames=answer)
            except UsageError as error:
                print(f"UsageError: {error}")
            give_back[0]()
        print("the first session:", (await first.exec("x")).result)
        print((await first.exec("import os; os._exit(1)")).outcome)


def refused_in_a_thread() -> None:
    from rlm_wasm.errors import UsageError
    from rlm_wasm.inline.guest_loader import load_guest_program
    from rlm_wasm.protocol.cell import Cell
    from rlm_wasm.vm.drive import drive
    from rlm_wasm.vm.session import Session
    from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

    loaded = load_guest_program()
    session = Session(loaded.program, loaded.facts, session_limits(), boundary_limits(), os.urandom)
    cell = Cell("1 + 1", cell_limits(), report_variables=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGILL})
    try:
        drive(session.run(cell))
    except UsageError as error:
        print(f"UsageError: {error}")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGILL})
    print((drive(session.run(cell)).result or b"").decode())
    session.close()


if __name__ == "__main__" and sys.argv[2] == "refused":
    if sys.argv[3] == "a thread that blocks":
        refused_in_a_thread()
    else:
        asyncio.run(refused(sys.argv[3]))
elif __name__ == "__main__":
    for way in sys.argv[3:]:
        if sys.argv[2] == "before":
            WAYS[way]()
    import anyio

    anyio.run(run, sys.argv[1], sys.argv[3:] if sys.argv[2] == "later" else [])
