"""What is being started has an owner, and what is closed is gone: zygotes, workers, sessions' places."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.errors import Overloaded, RlmWasmError, WorkerLost
from rlm_wasm.host import zygote_client as zygote_client_module
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.worker import Worker, WorkerSession
from rlm_wasm.host.zygote import Zygote
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.protocol.cell import Cell
from tests.faults.leftovers import children_of, nothing_left, parent_of
from tests.support.backends import NAMES, backends
from tests.support.pool_facts import pool, running, until
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest")]
# Nothing takes so long unless somebody waits for ever.
STUCK_SECONDS = 20.0


@pytest.fixture(params=backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each of these on every event loop."""
    return request.param


async def opened(worker: Worker, **more: Any) -> WorkerSession:
    return await worker.session(session_limits(), boundary_limits(), **more)


async def result_of(session: WorkerSession, source: str) -> str | None:
    return (await session.run(Cell(source, cell_limits()))).result


@asynccontextmanager
async def most_processes(made: WorkerPool) -> AsyncIterator[Callable[[], tuple[int, int]]]:
    """Watch how many zygotes, as processes of ours, and workers, as theirs, there are at most."""
    before, most = set(children_of(os.getpid())), [0, 0]

    async def watch() -> None:
        while True:
            zygotes = set(children_of(os.getpid())) - before
            inside = [pid for zygote in zygotes for pid in children_of(zygote)]
            most[0] = max(most[0], len(zygotes))
            workers = [pid for zygote in inside for pid in children_of(zygote)]
            most[1] = max(most[1], sum(map(running, workers)))
            assert len(zygotes) >= made.metrics().zygotes
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield lambda: (most[0], most[1])
        tasks.cancel_scope.cancel()


@pytest.mark.threat("T-111")
@pytest.mark.parametrize("isolation", ["session", "tenant"])
async def test_more_tenants_at_once_than_zygotes_are_refused_and_the_others_are_served(
    isolation: Any,
) -> None:
    told: list[str] = []

    async def one(made: WorkerPool, tenant: str) -> None:
        try:
            async with await opened(made, tenant=tenant) as session:
                told.append(str(await result_of(session, "6 * 7")))
                await until(lambda: len(told) == 5)
        except RlmWasmError as error:
            told.append(f"{type(error).__name__}: {error.message}")

    async with nothing_left():
        with anyio.fail_after(STUCK_SECONDS):
            async with pool(isolation, zygotes_max=2) as made, most_processes(made) as most:
                async with anyio.create_task_group() as tasks:
                    for number in range(5):
                        tasks.start_soon(one, made, f"tenant {number}")
                assert most()[0] == 2
                assert made.metrics().zygotes == 2
                assert made.metrics().refusals["zygotes"] == 3
    refused = "Overloaded: all 2 zygotes are in use, each by a tenant of its own"
    assert sorted(told) == ["42", "42", refused, refused, refused]


@pytest.mark.threat("T-111")
@pytest.mark.parametrize("isolation", ["session", "tenant"])
async def test_a_zygote_that_nobody_uses_makes_room_and_is_gone_before_the_next_one_starts(
    isolation: Any,
) -> None:
    async with nothing_left(), pool(isolation, zygotes_max=2, workers_max=2) as made:
        async with most_processes(made) as most:
            for number in range(5):
                # Some give up at some moment of the start.
                with anyio.move_on_after(0.15 if number % 2 else STUCK_SECONDS):
                    async with await opened(made, tenant=f"tenant {number}") as session:
                        assert await result_of(session, "6 * 7") == "42"
        zygotes, workers = most()
        assert zygotes <= 2
        assert workers <= 2
        assert made.metrics().zygotes_started >= 3


@pytest.mark.threat("T-111")
async def test_there_are_no_more_workers_than_the_policy_gives_also_while_they_start_and_end() -> None:
    async def impatient(made: WorkerPool, seconds: float) -> None:
        for _ in range(5):
            with anyio.move_on_after(seconds):
                try:
                    await (await opened(made)).aclose()
                except Overloaded:
                    await anyio.sleep(0.001)

    async with pool("session", workers_max=2) as made:
        async with most_processes(made) as most:
            await (await opened(made)).aclose()
            async with anyio.create_task_group() as tasks:
                for seconds in (0.001, 0.003, 0.005, 0.01, 1):
                    tasks.start_soon(impatient, made, seconds)
        zygotes, workers = most()
        assert zygotes == 1
        assert workers in (1, 2)  # by chance each open came when the one before it had ended
        async with await opened(made), await opened(made):
            assert len(made.connections) == 2


def _life(made: WorkerPool) -> Any:
    return made.zygote_clients[0]._life if made.zygote_clients else None


MOMENTS: dict[str, Callable[[WorkerPool], object]] = {
    "decided": lambda made: made.sessions,
    "the process is there": lambda made: (
        made.zygote_clients and made.zygote_clients[0].zygote_pid is not None
    ),
    "ready": lambda made: (life := _life(made)) and life.zygote is not None and life.zygote.serves,
    "forked": lambda made: made.connections,
}


@pytest.mark.threat("T-112")
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_pool_closes_at_every_moment_of_its_first_start(moment: str, cancelled: bool) -> None:
    told: list[str] = []

    async def go(made: WorkerPool, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await opened(made)
                told.append("there")
            except RlmWasmError as error:
                told.append(type(error).__name__)

    async with nothing_left() as seen:
        with anyio.fail_after(STUCK_SECONDS):
            async with anyio.create_task_group() as tasks, pool("session") as made:
                scope = anyio.CancelScope()
                tasks.start_soon(go, made, scope)
                await until(lambda: MOMENTS[moment](made))
                seen.look()
                if cancelled:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
        assert made.metrics().zygotes == made.metrics().sessions == 0
    assert told in ([], ["there"]) if cancelled else told in (["WorkerLost"], ["there"])


@pytest.mark.threat("T-112")
async def test_a_zygote_that_stands_still_while_it_starts_does_not_keep_its_pool_from_closing() -> None:
    async with nothing_left():
        with anyio.fail_after(STUCK_SECONDS):
            async with anyio.create_task_group() as tasks, pool("session") as made:

                async def go() -> None:
                    with pytest.raises(WorkerLost, match=r"closed|ended"):
                        await opened(made)

                tasks.start_soon(go)
                await until(lambda: made.zygote_clients and made.zygote_clients[0].zygote_pid)
                pid = made.zygote_clients[0].zygote_pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)


@pytest.mark.threat("T-112")
async def test_a_zygote_that_stands_still_while_it_starts_is_replaced() -> None:
    told: list[str | None] = []
    async with nothing_left(), pool("session") as made:

        async def go() -> None:
            async with await opened(made) as session:
                told.append(await result_of(session, "6 * 7"))

        with anyio.fail_after(STUCK_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(go)
                await until(lambda: made.zygote_clients and made.zygote_clients[0].zygote_pid)
                pid = made.zygote_clients[0].zygote_pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
        assert made.metrics().zygotes_started == 2
    assert told == ["42"]


@pytest.mark.threat("T-112")
async def test_a_start_that_is_given_up_while_its_thread_makes_the_process_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launch, begun, go_on, made_late = Zygote.launch, threading.Event(), threading.Event(), []

    def slow(*args: Any, **more: Any) -> Zygote:
        zygote = launch(*args, **more)
        made_late.append(zygote)
        begun.set()
        go_on.wait(STUCK_SECONDS)
        return zygote

    async def later() -> None:
        """While the pool closes."""
        await until(lambda: made._closed)
        await anyio.lowlevel.checkpoint()
        go_on.set()

    monkeypatch.setattr(Zygote, "launch", slow)
    async with nothing_left(), anyio.create_task_group() as outside:
        with anyio.fail_after(STUCK_SECONDS):
            async with pool("session") as made:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(opened, made)
                        await until(begun.is_set)
                        scope.cancel()
                outside.start_soon(later)
    (zygote,) = made_late
    assert zygote.ended()


@pytest.mark.threat("T-112")
async def test_a_program_that_uses_every_thread_of_its_loop_can_open_and_close() -> None:
    free = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as tasks:
        for _ in range(int(limiter.total_tokens)):
            tasks.start_soon(anyio.to_thread.run_sync, free.wait, STUCK_SECONDS)
        await until(lambda: limiter.available_tokens == 0)
        with anyio.fail_after(STUCK_SECONDS):
            async with pool("session") as made, await opened(made) as session:
                assert await result_of(session, "6 * 7") == "42"
        free.set()


@pytest.fixture
def interrupted(
    anyio_backend_name: str, anyio_backend_options: dict[str, Any]
) -> Iterator[subprocess.Popen[str]]:
    """A host that is starting its first zygote."""
    name = "uvloop" if anyio_backend_options else anyio_backend_name
    assert name in NAMES
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.interrupted_host", name], stdout=subprocess.PIPE, text=True
    ) as host:
        try:
            yield host
        finally:
            host.kill()


@pytest.mark.threat("T-112")
async def test_ctrl_c_while_a_zygote_starts_ends_the_host_and_the_zygote(
    interrupted: subprocess.Popen[str],
) -> None:
    assert interrupted.stdout is not None
    pid = int(interrupted.stdout.readline())
    interrupted.send_signal(signal.SIGINT)
    told, _ = interrupted.communicate(timeout=STUCK_SECONDS)
    assert told == "interrupted\n"
    assert parent_of(pid) == -1


@pytest.mark.threat("T-113")
@pytest.mark.parametrize("isolation", ["session", "tenant", "shared"])
async def test_the_place_of_a_session_is_free_when_its_closing_returns(isolation: Any) -> None:
    async with pool(isolation, sessions_max=2, workers_max=2) as made:
        first = await opened(made)
        for _ in range(8):
            second = await opened(made)
            assert await result_of(second, "1 + 1") == "2"
            children = [connection.child for connection in made.connections]
            await second.aclose()
            assert made.sessions == 1
            assert sum(running(child.pid) for child in children) == made.metrics().workers
        for delay in (0, 0.001, 0.002, 0.004):
            with anyio.move_on_after(delay):
                await (await opened(made)).aclose()  # on a quick machine some are there in time
            await until(lambda: made.sessions == 1)
        await first.aclose()
        assert made.sessions == 0


async def test_nothing_is_left_of_an_inline_session_when_its_closing_returns() -> None:
    async with InlineWorker() as worker:
        for _ in range(10):
            session = await opened(worker)
            await result_of(session, "1")
            assert worker._loop.open_sessions == 1
            await session.aclose()
            assert worker._loop.open_sessions == 0
        lost = await opened(worker)
    await lost.aclose()  # after its worker


@pytest.mark.threat("T-114")
@pytest.mark.parametrize("isolation", ["session", "tenant", "shared"])
async def test_a_worker_that_never_says_that_a_session_closed_loses_its_place(
    monkeypatch: pytest.MonkeyPatch, isolation: Any
) -> None:
    monkeypatch.setattr(zygote_client_module, "ENTRY", "tests.support.silent_closer")
    async with nothing_left():
        async with pool(isolation, sessions_max=1, workers_max=1, hang_ms_max=300) as made:
            for _ in range(2):
                session = await opened(made)
                assert await result_of(session, "6 * 7") == "42"
                with anyio.fail_after(STUCK_SECONDS):
                    await session.aclose()
                assert made.sessions == 0
            lost = 0 if isolation == "session" else 2
            assert made.metrics().workers_lost == lost


@pytest.mark.threat("T-114")
async def test_a_busy_worker_that_never_says_that_a_session_closed_is_ended_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It computes for another session meanwhile, and so is not still."""
    monkeypatch.setattr(zygote_client_module, "ENTRY", "tests.support.silent_closer")
    ended: list[str] = []

    async def compute(session: WorkerSession) -> None:
        cell = Cell("while True: pass", cell_limits(fuel_max=10**13, wall_ms_max=60_000))
        ended.append((await session.run(cell)).outcome)

    async with pool("shared", workers_max=1, hang_ms_max=200) as made:
        busy, closed = await opened(made), await opened(made)
        with anyio.fail_after(STUCK_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(compute, busy)
                await closed.aclose()
    assert ended == ["worker_lost"]


async def test_many_sessions_that_close_at_once_in_one_worker_are_no_hang() -> None:
    async with pool("shared", workers_max=1, hang_ms_max=200, heartbeat_ms=20) as made:
        kept = await opened(made)
        sessions = [await opened(made) for _ in range(60)]
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(session.aclose)
        assert made.sessions == 1
        assert await result_of(kept, "6 * 7") == "42"
