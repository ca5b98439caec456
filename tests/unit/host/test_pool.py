"""Sessions in worker processes: the same as in this process, and what only processes can do."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rlm_wasm.errors import (
    CellCancelled,
    GuestException,
    HostExhausted,
    InternalError,
    Overloaded,
    PolicyError,
    UsageError,
    WorkerLost,
)
from rlm_wasm.host import zygote_client as zygotes
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.host.worker import Worker, WorkerSession
from rlm_wasm.host.zygote_client import ZygoteClient
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot
from rlm_wasm.results import CellResult
from tests.faults.leftovers import children_of
from tests.support.descriptors import descriptors_left
from tests.support.machine_grade import LAYERS_HERE
from tests.support.pool_facts import alive, pool, until
from tests.support.process_limits import prlimit
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits
from tests.support.threads import no_thread

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


async def opened(worker: Worker, **more: Any) -> WorkerSession:
    limits = {key: more.pop(key) for key in ("entropy", "seed", "clock") if key in more}
    return await worker.session(session_limits(**limits), boundary_limits(), **more)


async def run(session: WorkerSession, source: str, answer: Any = None, **limits: int) -> CellResult:
    return await session.run(Cell(source, cell_limits(**limits), report_variables=True), answer)


async def echo_soon(frame: bytes) -> bytes:
    await anyio.lowlevel.checkpoint()
    return echo(frame)


async def test_cells_inputs_and_answers() -> None:
    async with pool() as made, await opened(made) as session:
        await session.load("context", "abc")
        await session.load("blob", b"\x00\xff" * 100_000)
        await session.load("wide", "漢🙂" * 1_000_000)
        await session.load("lone", "\ud800" * 3)
        assert (
            await run(session, "context, len(blob), blob[1], len(wide), wide[:2], lone == '\\ud800' * 3")
        ).result == ("('abc', 200000, 255, 2000000, '漢🙂', True)")
        assert (await run(session, "llm_query('hi')", echo_soon)).result == "'HI'"
        assert (await run(session, "print('out'); 1/0")).outcome == "guest_exception"
        with pytest.raises(UsageError, match="variable name"):
            await session.load("1x", "a")
        with pytest.raises(UsageError, match="context_bytes_max"):
            await session.load("x", "a" * (65 << 20))


async def test_a_host_without_descriptors_is_told_so_and_its_pool_goes_on() -> None:
    async with pool("session") as made, await opened(made) as first:
        with (
            descriptors_left(0),
            pytest.raises(HostExhausted, match="no worker process can be made: Too many open files"),
        ):
            await opened(made)
        assert (await run(first, "1 + 1")).result == "2"
        async with await opened(made) as second:
            assert (await run(second, "2 + 2")).result == "4"


async def test_an_image_that_a_host_has_no_descriptor_for_ends_its_own_operation_and_no_worker() -> None:
    async with pool(workers_max=1) as made, await opened(made) as first, await opened(made) as second:
        await run(first, "x = 5")
        with (
            descriptors_left(0),
            pytest.raises(HostExhausted, match="cannot be lent to a worker: Too many open files"),
        ):
            await first.snapshot()
        assert (await run(first, "x")).result == "5"
        assert (await run(second, "1 + 1")).result == "2"
        async with await opened(made, start=await first.snapshot()) as fork:
            assert (await run(fork, "x")).result == "5"


async def test_a_file_that_a_worker_has_no_descriptor_for_ends_its_own_operation_and_no_worker() -> None:
    async with pool(workers_max=1) as made, await opened(made) as first, await opened(made) as second:
        await run(first, "x = 5")
        image = await first.snapshot()
        (connection,) = made.connections
        limits = prlimit(connection.child.pid, resource.RLIMIT_NOFILE)
        prlimit(connection.child.pid, resource.RLIMIT_NOFILE, (6, limits[1]))
        with pytest.raises(HostExhausted, match="the worker has no descriptor left"):
            await second.load("context", "x" * 1_000_000)
        with pytest.raises(HostExhausted, match="the worker has no descriptor left"):
            await second.snapshot()
        assert (await run(second, "1 + 1")).result == "2"
        prlimit(connection.child.pid, resource.RLIMIT_NOFILE, limits)
        await second.load("context", "x" * 1_000_000)
        assert (await run(first, "x")).result == "5"
        assert [each.child.pid for each in made.connections] == [connection.child.pid]
        async with await opened(made, start=image) as fork:
            assert (await run(fork, "x")).result == "5"


async def test_a_window_that_a_worker_has_no_descriptor_for_fails_one_read_and_no_worker(
    tmp_path: Path,
) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1_000_000)
    async with pool(workers_max=1) as made, await opened(made) as session:
        await session.load("raw", InputFile(tmp_path / "f", as_bytes=True))
        (connection,) = made.connections
        limits = prlimit(connection.child.pid, resource.RLIMIT_NOFILE)
        prlimit(connection.child.pid, resource.RLIMIT_NOFILE, (6, limits[1]))
        error = (await run(session, "raw[:]")).error
        assert isinstance(error, GuestException)
        assert error.type_name == "OSError"
        # In one cell its host goes on with the window that did not come.
        caught = "try: raw[:]\nexcept OSError: pass\ntry: raw[:]\nexcept OSError: print(len(raw[:9]))"
        assert (await run(session, caught)).stdout == "9\n"
        prlimit(connection.child.pid, resource.RLIMIT_NOFILE, limits)
        assert (await run(session, "raw[:].count(b'x')")).result == "1000000"
        assert connection.lost is None


@pytest.mark.parametrize("what", ["a value", "an image"])
async def test_a_file_that_a_host_cannot_keep_for_a_busy_worker_ends_its_operation_once(what: str) -> None:
    async with pool(workers_max=1, hang_ms_max=60_000) as made:
        first, second = await opened(made), await opened(made)
        await run(second, "x = 5")
        image = await second.snapshot()
        begin = {
            "a value": lambda: second.load("y", "x" * 500_000),
            "an image": lambda: opened(made, start=image),
        }
        (connection,) = made.connections
        os.kill(connection.child.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, first, "#" * 250_000)  # more than the socket takes
            await until(lambda: connection._channel.unsent_bytes)
            try:
                # For a value one is left, which it is laid out in.
                with descriptors_left(1 if what == "a value" else 0), pytest.raises(HostExhausted):
                    await begin[what]()
                assert made.sessions == 2
            finally:
                os.kill(connection.child.pid, signal.SIGCONT)
        assert (await run(second, "x")).result == "5"
        await second.load("y", "x" * 500_000)
        assert (await run(second, "len(y)")).result == "500000"
        assert not connection.busy
        assert connection.lost is None
        await first.aclose()
        await second.aclose()
        await until(lambda: made.sessions == 0)
        async with await opened(made, start=image) as fork:
            assert (await run(fork, "x")).result == "5"


async def test_a_value_that_a_host_has_no_descriptor_for_is_told_so_and_its_session_goes_on() -> None:
    async with pool() as made, await opened(made) as session:
        with descriptors_left(0), pytest.raises(HostExhausted, match="Too many open files"):
            await session.load("x", "x" * 500_000)
        await session.load("x", "x" * 500_000)
        assert (await run(session, "len(x)")).result == "500000"


async def test_a_worker_that_a_host_has_no_descriptor_for_ends_no_other_and_no_zygote() -> None:
    async with pool("session") as made, await opened(made) as first:
        # Two ends of a socket. One is closed for a pidfd, and none is left to read whose it is.
        with descriptors_left(2), pytest.raises(HostExhausted, match="no worker process can be made"):
            await opened(made)
        assert (await run(first, "1 + 1")).result == "2"
        async with await opened(made) as second:
            assert (await run(second, "2 + 2")).result == "4"
        assert [zygotes.started for zygotes in made.zygote_clients] == [1]


def _unwatchable(child: ProcessHandle, folder: Path) -> None:
    """Put a plain file where the socket was: epoll watches none."""
    with open(folder / "file", "wb") as file:
        os.dup2(file.fileno(), child.connection.fileno(), inheritable=False)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_unwatchable, WorkerLost, "the host cannot watch its socket: .*Operation not permitted"),
        (lambda child, folder: child.connection.close(), InternalError, "no worker can be made: OSError: "),
    ],
)
async def test_a_worker_that_the_host_cannot_serve_ends_typed_and_its_pool_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spoil: Callable[[ProcessHandle, Path], None],
    error: type[Exception],
    says: str,
) -> None:
    fork, spoilt = ZygoteClient.fork, []

    async def unlucky(self: ZygoteClient) -> ProcessHandle:
        child = await fork(self)
        spoil(child, tmp_path)
        spoilt.append(child.pid)
        return child

    async with pool("session") as made, await opened(made) as first:
        with monkeypatch.context() as patched:
            patched.setattr(ZygoteClient, "fork", unlucky)
            with pytest.raises(error, match=says):
                await opened(made)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in spoilt))
        assert made.sessions == 1
        assert (await run(first, "1 + 1")).result == "2"
        async with await opened(made) as second:
            assert (await run(second, "2 + 2")).result == "4"
        assert [keeper.started for keeper in made.zygote_clients] == [1]


async def test_a_loop_that_watches_no_more_descriptors_ends_neither_pool_nor_zygote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait, refused = anyio.wait_readable, set()
    ended, looked = ProcessHandle.ended, set()
    async with pool("session") as made:

        def ended_later(child: ProcessHandle) -> bool:
            # On a busy machine it may be over at the first look, and nobody waits.
            if child.pid not in looked:
                looked.add(child.pid)
                return False
            return ended(child)

        async def refusing(fd: Any) -> None:
            lives = [keeper._life for keeper in made.zygote_clients]
            if fd in [life.zygote.fileno() for life in lives if life is not None and life.zygote is not None]:
                refused.add("zygote")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if "pidfd" in os.readlink(f"/proc/self/fd/{fd}"):
                refused.add("pidfd")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            await wait(fd)

        monkeypatch.setattr(anyio, "wait_readable", refusing)
        monkeypatch.setattr(ProcessHandle, "ended", ended_later)
        for _ in range(2):
            async with await opened(made) as session:
                assert (await run(session, "1 + 1")).result == "2"
                (connection,) = made.connections
            await until(lambda: not alive(connection.child))  # noqa: B023 - awaited here
        assert [keeper.started for keeper in made.zygote_clients] == [1]
    assert refused == {"zygote", "pidfd"}


async def test_what_is_no_shortage_is_not_called_one_and_the_pool_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pool("session") as made:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(InternalError, match="no worker process can be made: FileNotFoundError"):
                await opened(made)
        async with await opened(made) as session:
            assert (await run(session, "1 + 1")).result == "2"


async def test_a_host_without_a_thread_to_spare_loses_nothing_of_its_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pool("session") as made, await opened(made, tenant="one") as session:
        with monkeypatch.context() as patched:
            patched.setattr("anyio.to_thread.run_sync", no_thread)
            with pytest.raises(HostExhausted, match="no thread can be started"):
                await opened(made, tenant="another")
            with pytest.raises(HostExhausted, match="no thread can be started"):
                await session.load("context", "x" * 3_000_000)
        async with await opened(made, tenant="another") as other:
            assert (await run(other, "1 + 1")).result == "2"
        assert (await run(session, "2 + 2")).result == "4"


async def test_an_input_waits_for_no_thread_of_the_application() -> None:
    common = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(common.total_tokens))]
    async with pool("session") as made, await opened(made) as session:
        for borrower in borrowers:
            await common.acquire_on_behalf_of(borrower)
        try:
            with anyio.fail_after(60):
                await session.load("context", "x" * 3_000_000)
        finally:
            for borrower in borrowers:
                common.release_on_behalf_of(borrower)
        assert (await run(session, "len(context)")).result == "3000000"


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's processes count as well")
async def test_a_fork_that_the_kernel_refuses_ends_no_worker_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zygotes, "ENTRY", "tests.support.only_worker")
    async with pool("session") as made:
        async with await opened(made, tenant="a") as first:
            with pytest.raises(HostExhausted, match="no fork: Resource temporarily unavailable"):
                await opened(made, tenant="a")
            assert (await run(first, "1 + 1")).result == "2"
            (connection,) = made.connections
        await until(lambda: not alive(connection.child))
        async with await opened(made, tenant="a") as second:
            assert (await run(second, "2 + 2")).result == "4"
        (keeper,) = made.zygote_clients
        assert keeper.started == 1


_CELLS = (
    "1 + 1",
    "x = 5; print(x)",
    "x",
    "1/0",
    "raise ValueError('é' * 20_000)",
    "print('y' * 100_000)",
    "while True: pass",
    "bytearray(10**9)",
    "llm_query('?')",
    "llm_query_batched(['a', 'b'])",
    "import os; os._exit(3)",
    "x",
    "import _rlm; _rlm.emit(99, b'x')",
    "import random; random.random()",
    "print('\\ud800')",
    "def f(): return f()\nf()",
)


async def test_every_cell_ends_as_it_does_in_this_process() -> None:
    results: list[list[tuple[Any, ...]]] = []
    for worker in (InlineWorker(), None):
        async with worker or pool() as made, await opened(made, entropy="seeded", seed=7) as session:
            seen = []
            for source in _CELLS:
                cell = Cell(source, cell_limits(fuel_max=200_000_000), report_variables=True)
                result = await session.run(cell, echo_soon, checkpoint_bytes_max=16 << 20)
                error = result.error
                seen.append(
                    (result.outcome, result.stdout, result.stderr, result.result, type(error), str(error),
                     error and error.traceback, result.variables, result.session_state)
                )  # fmt: skip
            results.append(seen)
    assert results[0] == results[1]


@pytest.mark.threat("T-059")
async def test_each_session_has_a_process_of_its_own_that_ends_with_it() -> None:
    async with pool("session") as made:
        first, second = await opened(made), await opened(made)
        children = [connection.child for connection in made.connections]
        assert len({child.pid for child in children}) == 2
        assert (await run(first, "6 * 7")).result == "42"
        await first.aclose()
        await until(lambda: not alive(children[0]))
        assert (await run(second, "6 * 7")).result == "42"
    await until(lambda: not any(alive(child) for child in children))


@pytest.mark.threat("T-059")
async def test_tenants_share_neither_worker_nor_zygote() -> None:
    async with pool("tenant", workers_max=8) as made:
        for tenant in ("a", "b", "a"):
            await opened(made, tenant=tenant)
        assert {connection.tenant for connection in made.connections} == {"a", "b"}
        assert len({zygotes.zygote_pid for zygotes in made.zygote_clients}) == 2


async def test_sessions_that_share_a_process_answer_in_any_order() -> None:
    async with pool(workers_max=1) as made:
        results: dict[int, str | None] = {}

        async def one(number: int) -> None:
            async with await opened(made) as session:
                result = await run(session, f"llm_query('q{number}') + str(sum(range(10_000)))", echo_soon)
                results[number] = result.result

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert results == {number: f"'Q{number}49995000'" for number in range(20)}
        assert len(made.connections) == 1


@pytest.mark.threat("T-040")
async def test_every_layer_of_the_lock_down_stands_where_it_is_required() -> None:
    async with pool("session", layers=LAYERS_HERE) as made, await opened(made) as session:
        assert (await run(session, "1")).result == "1"
        status = Path(f"/proc/{made.connections[0].child.pid}/status").read_text()  # noqa: ASYNC240
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "CapEff:\t0000000000000000" in status


async def test_a_cancelled_cell_stops_and_its_session_closes() -> None:
    async with pool() as made, await opened(made) as session:
        with anyio.move_on_after(0.05):
            await run(session, "while True: pass", fuel_max=10**12)
        with pytest.raises(UsageError, match="lost"):
            await run(session, "1")


async def test_an_interrupted_cell_unwinds_and_its_session_lives() -> None:
    async with pool() as made, await opened(made) as session, anyio.create_task_group() as group:
        results = []

        async def go() -> None:
            results.append(await run(session, "x = 1\nwhile True: pass", fuel_max=10**12))

        group.start_soon(go)
        await anyio.sleep(0.05)
        session.interrupt()
        await until(lambda: results)
        assert results[0].outcome == "cancelled"
        assert (await run(session, "x")).result == "1"


async def test_an_answer_that_raises_ends_the_cell() -> None:
    async def refuse(frame: bytes) -> bytes:
        raise CellCancelled("no")

    async with pool() as made, await opened(made) as session:
        result = await run(session, "llm_query('?')", refuse)
        assert (result.outcome, str(result.error)) == ("cancelled", "no")


async def test_images_fork_and_belong_to_their_tenant() -> None:
    async with pool("tenant") as made:
        async with await opened(made, tenant="a") as session:
            await run(session, "x = [1, 2, 3]\ndef f(): return x")
            image = await session.snapshot()
        assert isinstance(image, WorkerSnapshot)
        for _ in range(2):
            async with await opened(made, tenant="a", start=image) as fork:
                assert (await run(fork, "x.append(4); f()")).result == "[1, 2, 3, 4]"
        with pytest.raises(UsageError, match="another tenant"):
            await opened(made, tenant="b", start=image)


async def test_a_rebased_session_goes_on() -> None:
    async with pool() as made, await opened(made) as session:
        await session.load("context", "x" * 3_000_000)
        await session.rebase()
        cell = Cell("import os\nos._exit(1)", cell_limits())
        result = await session.run(cell, checkpoint_bytes_max=1 << 20)
        assert result.session_state is SessionState.RESTORED
        assert (await run(session, "len(context)")).result == "3000000"


@pytest.mark.threat("T-060")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGABRT])
async def test_a_worker_that_is_killed_ends_its_sessions_within_a_second_and_is_replaced(kill: int) -> None:
    async with pool(workers_max=1) as made:
        busy, idle = await opened(made), await opened(made)
        child = made.connections[0].child
        results = []

        async def go() -> None:
            results.append(await run(busy, "while True: pass", fuel_max=10**12, wall_ms_max=60_000))

        async with anyio.create_task_group() as group:
            group.start_soon(go)
            await anyio.sleep(0.05)
            began = time.monotonic()
            os.kill(child.pid, kill)
        assert time.monotonic() - began < 1
        (result,) = results
        assert (result.outcome, result.session_state) == ("worker_lost", "lost")
        assert type(result.error) is WorkerLost
        assert 0 < result.fuel_used <= 10**12
        assert (await run(idle, "1")).outcome == "worker_lost"
        with pytest.raises(WorkerLost):
            await idle.load("x", "y")
        with pytest.raises(WorkerLost):
            await idle.snapshot()
        async with await opened(made) as fresh:
            assert (await run(fresh, "6 * 7")).result == "42"


@pytest.mark.threat("T-060")
async def test_a_worker_that_stands_still_is_killed() -> None:
    async with pool(workers_max=1, hang_ms_max=300) as made:
        session = await opened(made)
        child = made.connections[0].child
        os.kill(child.pid, signal.SIGSTOP)
        began = time.monotonic()
        result = await run(session, "1")
        assert result.outcome == "worker_lost"
        assert "no sign of life" in str(result.error)
        assert time.monotonic() - began < 2
        await until(lambda: not alive(child))


async def test_a_worker_that_waits_for_the_host_does_not_hang() -> None:
    async def slow(frame: bytes) -> bytes:
        await anyio.sleep(0.5)
        return echo(frame)

    async with pool(hang_ms_max=100, heartbeat_ms=20) as made, await opened(made) as session:
        assert (await run(session, "llm_query('hi')", slow)).result == "'HI'"


@pytest.mark.threat("T-061")
async def test_a_zygote_that_is_killed_takes_its_workers_along_and_is_replaced() -> None:
    async with pool() as made:
        session = await opened(made)
        (zygotes,) = made.zygote_clients
        child, zygote = made.connections[0].child, zygotes.zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not alive(child))
        assert (await run(session, "1")).outcome == "worker_lost"
        async with await opened(made) as fresh:
            assert (await run(fresh, "6 * 7")).result == "42"
        assert zygotes.started == 2
        assert zygotes.zygote_pid != zygote


@pytest.mark.threat("T-060")
async def test_a_worker_is_not_charged_with_the_time_in_which_its_host_stood_still_as_well() -> None:
    async with pool(workers_max=1, hang_ms_max=300, heartbeat_ms=20) as made, await opened(made) as session:
        child = made.connections[0].child

        async def paused() -> None:
            await anyio.sleep(0.1)
            os.kill(child.pid, signal.SIGSTOP)
            await anyio.sleep(0.06)  # a ping is on its way
            time.sleep(0.6)  # noqa: ASYNC251 - the loop stands still, that is the point
            await anyio.sleep(0.05)  # a beat of the host's, before the worker's
            os.kill(child.pid, signal.SIGCONT)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(paused)
            result = await run(session, "sum(range(20_000_000))", fuel_max=10**12)
        assert result.outcome == "completed"


@pytest.mark.threat("T-061")
async def test_a_zygote_that_stands_still_is_found_by_the_next_fork_and_replaced() -> None:
    async with pool("session", hang_ms_max=300) as made:
        async with await opened(made):
            pass
        (zygotes,) = made.zygote_clients
        assert zygotes.zygote_pid is not None
        (inside,) = children_of(zygotes.zygote_pid)
        os.kill(inside, signal.SIGSTOP)
        async with await opened(made) as fresh:
            assert (await run(fresh, "6 * 7")).result == "42"
        assert zygotes.started == 2
        await until(lambda: not Path(f"/proc/{inside}").exists())


@pytest.mark.threat("T-061")
async def test_a_pool_closes_although_its_zygote_stands_still() -> None:
    async with pool() as made:
        await opened(made)
        zygote = made.zygote_clients[0].zygote_pid
        assert zygote is not None
        (inside,) = children_of(zygote)
        os.kill(inside, signal.SIGSTOP)
    await until(lambda: not Path(f"/proc/{inside}").exists())


@pytest.mark.threat("T-062")
async def test_a_session_that_a_worker_is_refused_memory_for_is_made_in_another_one() -> None:
    async with pool(workers_max=2) as made, await opened(made):
        (starved,) = made.connections
        # Whatever a session takes is refused. The third would go there.
        prlimit(starved.child.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
        async with await opened(made) as second, await opened(made) as third:
            assert (await run(second, "6 * 7")).result == "42"
            assert (await run(third, "6 * 7")).result == "42"


async def test_memory_that_no_worker_is_given_is_the_machines_shortage() -> None:
    async with pool(workers_max=1) as made, await opened(made) as session:
        (starved,) = made.connections
        prlimit(starved.child.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
        with pytest.raises(HostExhausted, match="no address space: Cannot allocate memory"):
            await opened(made)
        assert not starved.lost
        await session.aclose()


async def test_a_bug_that_shows_once_as_a_session_is_made_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    open_in, failed = ProcessSession.open_in, []

    async def fails_once(self: ProcessSession, *what: Any) -> None:
        if not failed:
            failed.append(self)
            raise InternalError("a bug of ours")
        await open_in(self, *what)

    monkeypatch.setattr(ProcessSession, "open_in", fails_once)
    async with pool() as made:
        with pytest.raises(InternalError, match="a bug of ours"):
            await opened(made)
        async with await opened(made) as session:
            assert (await run(session, "1 + 1")).result == "2"


@pytest.mark.threat("T-060")
async def test_a_worker_that_hears_its_host_no_more_is_lost_and_not_closed() -> None:
    async with pool(workers_max=1) as made:
        session = await opened(made)
        (connection,) = made.connections

        async def deaf(frame: bytes) -> bytes:
            connection.child.connection.shutdown(socket.SHUT_WR)
            await anyio.sleep(5)
            return echo(frame)

        result = await run(session, "llm_query('?')", deaf)
        assert (result.outcome, type(result.error)) == ("worker_lost", WorkerLost)


@pytest.mark.threat("T-064")
async def test_more_sessions_than_there_is_room_for_are_refused_and_the_others_live() -> None:
    async with pool("session", workers_max=2) as made:
        first, second = await opened(made), await opened(made)
        with pytest.raises(Overloaded):
            await opened(made)
        assert (await run(first, "1")).result == "1"
        await second.aclose()
        await until(lambda: made.sessions < 2)
        async with await opened(made) as third:
            assert (await run(third, "1")).result == "1"


async def test_a_session_that_cannot_be_made_leaves_its_place() -> None:
    async with pool(session={"memory_bytes_max": 128 << 20}) as made:
        with pytest.raises(PolicyError, match="memory_bytes_max"):
            await made.session(session_limits(memory_bytes_max=1 << 20), boundary_limits())
        assert made.sessions == 0


@pytest.mark.threat("T-060")
async def test_a_worker_that_is_stopped_before_its_first_word_is_found_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork = ZygoteClient.fork

    async def stopped(self: ZygoteClient) -> ProcessHandle:
        child = await fork(self)
        os.kill(child.pid, signal.SIGSTOP)
        return child

    async with pool("session") as made:
        async with await opened(made):
            pass
        monkeypatch.setattr(ZygoteClient, "fork", stopped)
        with anyio.fail_after(4), pytest.raises(WorkerLost):
            await opened(made)
        monkeypatch.undo()
        async with await opened(made) as session:
            assert (await run(session, "6 * 7")).result == "42"


async def test_a_cancelled_opening_leaves_its_place_and_no_process() -> None:
    async with pool("session") as made:
        async with await opened(made):
            pass
        for delay in (0, 0.001, 0.003, 0.006, 0.01):
            with anyio.move_on_after(delay):
                # On a quick machine some of them are there in time.
                await (await opened(made)).aclose()
        await until(lambda: not (made.connections or made.sessions))


async def test_a_pool_that_made_nothing_closes() -> None:
    async with pool():
        pass


async def test_a_closed_pool_and_one_that_was_not_opened_make_no_session() -> None:
    async with pool() as made:
        session = await opened(made)
    with pytest.raises(UsageError, match="closed"):
        await opened(made)
    assert (await run(session, "1")).outcome == "worker_lost"
    await session.aclose()
    with pytest.raises(UsageError, match="context manager"):
        await opened(WorkerPool(made._limits))


async def test_a_pool_closes_in_the_middle_of_cells_and_each_is_told_once() -> None:
    ended: list[str] = []

    async def go(session: WorkerSession, source: str) -> None:
        ended.append((await run(session, source, never, fuel_max=10**12, wall_ms_max=60_000)).outcome)

    async def never(frame: bytes) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as group, pool(workers_max=2) as made:
        for source in ("while True: pass", "llm_query('?')", "while True: pass", "llm_query('?')"):
            group.start_soon(go, await opened(made), source)
        await anyio.sleep(0.05)
        await made.aclose()
    assert ended == ["worker_lost"] * 4
