"""The façade for code that is not async: the same calls, one background loop, nothing left behind."""

from __future__ import annotations

import gc
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import (
    Gap,
    Policy,
    Run,
    Runtime,
    Sandbox,
    SandboxSession,
    SyncRun,
    SyncRuntime,
    SyncSandbox,
    SyncSession,
)
from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.errors import OutputExceeded, UsageError
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

PAIRS = [(Sandbox, SyncSandbox), (SandboxSession, SyncSession), (Runtime, SyncRuntime), (Run, SyncRun)]
# What one of them alone has, and why.
ASYNC_ONLY = {
    "sync": "it is how one gets the other",
    "exec_sync": "for a sandbox that is not open",
    "ask_sync": "for a runtime that is not open",
    "aclose": "called close, as everywhere",
    "drive": "the runtime's",
    "answer": "its sessions'",
    "stop": "the runtime's",
    "in_world": "for tests and replays",
    "drive_in_background": "the runtime's",
    "ended": "the runtime's",
    "hook": "its sessions' and the runtime's",
    "open_fork": "its sessions' and its snapshots'",
    "abandon": "of who forks and gives one up",
    "exec_turn": "the rollouts'",
    "policy": "the rollouts'",
}
SYNC_ONLY = {
    "exec of SyncSandbox": "one cell in a session of its own",
    "close of SyncSession": "aclose",
    "fork of SyncSandbox": "of a snapshot, whose own is async",
}
# What these are given takes a session, which is of its own kind in each.
OF_SESSIONS = {"best_of"}


def public(kind: type) -> dict[str, Any]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def parameters(name: str, function: Any) -> list[inspect.Parameter]:
    found = list(inspect.signature(function).parameters.values())
    if name not in OF_SESSIONS:
        return found
    return [each.replace(annotation=inspect.Parameter.empty) for each in found]


@pytest.mark.parametrize(("kind", "sync"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_facades_have_the_same_methods_with_the_same_parameters(kind: type, sync: type) -> None:
    ours, theirs = public(kind), public(sync)
    assert {name for name in theirs if f"{name} of {sync.__name__}" not in SYNC_ONLY} <= set(ours) | {
        "run_id",  # attributes of a run
        "tenant",
    }
    for name, member in ours.items():
        if name in ASYNC_ONLY:
            continue
        assert name in theirs
        if inspect.isfunction(member):
            assert parameters(name, member) == parameters(name, theirs[name])
            assert inspect.getdoc(theirs[name])


@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_sessions_keep_their_variables_and_forks_go_their_own_way(isolation: str) -> None:
    policy = small_policy(sandbox={"isolation": isolation, "require_lockdown": False})
    with Sandbox(policy).sync() as sandbox:
        with sandbox.session() as session:
            session.load("context", "abc")
            assert session.exec("x = [len(context)]").outcome == "completed"
            image = session.snapshot()
            with sandbox.session(snapshot=image) as fork:
                assert fork.exec("x.append(4); x").result == "[3, 4]"
            assert session.exec("x").result == "[3]"
        assert sandbox.exec("len(context)", context="four").result == "4"
        assert sandbox.metrics().total.cells == 4


def test_one_sandbox_serves_many_threads(strict: Policy) -> None:
    with Sandbox(strict).sync() as sandbox, ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda n: sandbox.exec(f"{n} * 2"), range(9)))
    assert [r.result for r in results] == [str(2 * n) for n in range(9)]


def test_another_thread_interrupts_a_cell(strict: Policy) -> None:
    asked = threading.Event()

    async def answer(frame: bytes) -> bytes:
        asked.set()
        raise OutputExceeded("not awaited any more") if over.is_set() else TimeoutError("held")

    over = threading.Event()
    with Sandbox(strict).sync() as sandbox, sandbox.session() as session:
        stop = threading.Thread(target=lambda: (asked.wait(), session.interrupt()))
        stop.start()
        with pytest.raises(TimeoutError, match="held"):
            session.exec("kept = 1\ntry: llm_query('?')\nfinally: kept = 2", answer_frames=answer)
        stop.join()
        assert session.exec("kept").result == "2"


def test_ctrl_c_ends_the_cell_before_it_goes_on(strict: Policy) -> None:
    waits = threading.main_thread().ident
    assert waits == threading.get_ident()

    async def answer(frame: bytes) -> bytes:
        signal.pthread_kill(waits, signal.SIGINT)
        await anyio.sleep_forever()
        raise AssertionError

    with Sandbox(strict).sync() as sandbox, sandbox.session() as session:
        session.exec("n = 0")
        with pytest.raises(KeyboardInterrupt):
            session.exec("n = 1; llm_query('?')", answer_frames=answer)
        # The cell has ended: the session is not busy, and is what it was before.
        assert session.exec("n").result == "0"


def test_a_sandbox_that_is_not_open_says_so(strict: Policy) -> None:
    box = Sandbox(strict).sync()
    with pytest.raises(UsageError, match="is not open"):
        box.session()
    with box, box.session() as session:
        with pytest.raises(UsageError, match="open already"):
            box.__enter__()
        assert session.exec("1").result == "1"
    with pytest.raises(UsageError, match="is not open"):
        session.exec("1")
    with box as again:  # one after the other
        assert again.exec("2").result == "2"


def test_what_cannot_be_opened_is_raised_as_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    runtime = Runtime(small_policy(), model=f"script:{tmp_path / 'none.toml'}").sync()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"none\.toml"):
            runtime.__enter__()
    assert set(threading.enumerate()) <= before


@pytest.mark.anyio
async def test_where_a_loop_runs_every_call_says_what_to_do_instead(strict: Policy, tmp_path: Path) -> None:
    box = Sandbox(strict).sync()
    with pytest.raises(UsageError, match="where an event loop runs") as refused:
        box.__enter__()
    assert "async with Sandbox(policy)" in str(refused.value.hint)
    runtime = Runtime(small_policy(), model=Script(tmp_path).spec)
    calls: list[Callable[[], Any]] = [runtime.sync().__enter__, lambda: runtime.sync().ask("?")]
    for call in [*calls, lambda: runtime.ask_sync("?")]:
        with pytest.raises(UsageError, match="where an event loop runs") as refused:
            call()
        assert "await runtime.ask" in str(refused.value.hint)


def test_a_runtime_answers_several_questions(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "FINAL(len(context))")
    seen: list[str] = []
    with Runtime(small_policy(), model=script.spec).sync() as runtime:
        assert runtime.ask("?", "abc", sinks=[lambda event: seen.append(event.kind)]).answer == "3"
        runs = [runtime.start("?", "a" * n, tenant="t") for n in range(3)]
        assert [run.result().answer for run in runs] == ["0", "1", "2"]
        assert {run.tenant for run in runs} == {"t"}
        assert len({run.run_id for run in runs}) == 3
        assert runtime.metrics().total.runs_ended == 4
    assert seen[0] == "run_started"
    assert seen[-1] == "run_ended"


def test_a_run_is_watched_and_cancelled(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "while True: llm_query('x')").reply("sub", "yes")
    kinds: list[str] = []
    with Runtime(small_policy(), model=script.spec).sync() as runtime:
        run = runtime.start("?", "abc")
        for event in run.events():
            kinds.append("gap" if isinstance(event, Gap) else event.kind)
            if kinds.count("query_answered") == 2:
                run.cancel("seen enough")
        result = run.result()
    assert (result.partial, result.reason) == (True, "seen enough")
    assert kinds[-1] == "run_ended"


def test_the_loop_gives_back_what_a_call_returns_and_raises() -> None:
    class Nothing:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    async def double(value: int) -> int:
        return 2 * value

    loop = BackgroundLoop("it", instead="do something else")
    loop.open(Nothing())
    assert loop.call(double, 4) == 8
    assert loop.do(len, "abc") == 3
    with pytest.raises(TypeError):
        loop.do(len, 1)  # type: ignore[arg-type]
    loop.close(None, None, None)
    with pytest.raises(UsageError, match="it is not open"):
        loop.call(double, 4)


UNCLOSED = """
import anyio, os, sys, threading
from rlm_wasm.errors import RuntimeClosed
from rlm_wasm import Policy, Sandbox
from tests.support.runtime_facts import small_policy

policy = small_policy(sandbox={"isolation": "session", "require_lockdown": False})
box = Sandbox(policy).sync()
box.__enter__()
print(box.exec("1").result)

def cells():
    with Sandbox(policy).sync() as other, other.session() as session:
        yield session.exec("2").result

asked = threading.Event()

async def never(query):
    asked.set()
    await anyio.sleep_forever()

waits = Sandbox(policy, on_query=never).sync()
waits.__enter__()

def forever():
    try:
        waits.exec("llm_query('?')")
    except RuntimeClosed as error:
        print(error, file=sys.stderr, flush=True)

threading.Thread(target=forever, daemon=True).start()
asked.wait()
unfinished = cells()
print(next(unfinished), flush=True)
child = os.fork()
if not child:
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_what_is_not_closed_is_closed_at_exit_and_left_alone_in_a_fork() -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", UNCLOSED]
    ended = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "2", "3"])
    assert ended.stderr.count("a sandbox of `sync()` was not closed") == 3
    assert "Traceback" not in ended.stderr


def test_what_nobody_holds_any_more_ends_its_thread(strict: Policy) -> None:
    before = set(threading.enumerate())
    box = Sandbox(strict).sync()
    box.__enter__()
    (thread,) = {each for each in threading.enumerate() if each not in before and "sync()" in each.name}
    del box
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_the_program_comes_out_of_the_call_and_the_loop_lives(
    kind: type[BaseException], tmp_path: Path
) -> None:
    def ends(_: object) -> str:
        raise kind(7)

    async def ends_async(_: object) -> str:
        raise kind(7)

    for on_query in (ends, ends_async):
        with Sandbox(small_policy(), on_query=on_query).sync() as box, box.session() as session:
            with pytest.raises(kind, match="7"):
                session.exec("llm_query_batched(['?', '?'])")
            with pytest.raises(kind, match="7"):
                session.exec("print(1)", on_output=ends)
            assert box.exec("1").result == "1"
    script = Script(tmp_path).reply("root", "FINAL(1)")
    with Runtime(small_policy(), model=script.spec).sync() as runtime:
        with pytest.raises(kind, match="7"):
            runtime.ask("?", sinks=[ends])
        with pytest.raises(kind, match="7"):
            runtime.ask("?", outputs=ends_async)
        run = runtime.start("?", sinks=[ends])
        with pytest.raises(kind, match="7"):
            run.result()
        assert runtime.ask("?").answer == "1"
