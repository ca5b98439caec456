"""A cache whose file others use, or that is asked by many at once: nobody waits for it more than once."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rlm_wasm.limits import CacheLimits, TenantLimits
from rlm_wasm.providers.response_cache import ResponseCache

pytestmark = [pytest.mark.anyio, pytest.mark.threat("T-245")]

ALL = TenantLimits(share_percent=100, cells_max=1, runs_max=1)
# More than any part of a test takes; who waits so long has waited for what should not be waited for.
FOR_EVER_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def made(file: Path | str, secret: Callable[[], bytes] = lambda: bytes(range(32))) -> ResponseCache:
    return ResponseCache(CacheLimits(entries_max=100, bytes_max=100_000), ALL, str(file), secret, 10_000)


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """Another process's connection, which has the file locked."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def descriptors_of(path: Path) -> int:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.path.realpath(link) == str(path.resolve()) for link in links)


@pytest.mark.parametrize("statements", [["BEGIN IMMEDIATE"], ["BEGIN", "SELECT * FROM answers"]])
async def test_a_hit_is_one_while_another_process_writes_or_reads(path: Path, statements: list[str]) -> None:
    with closing(made(path)) as cache:
        await cache.put("a", b"x", "Bern")
        with holding(path, *statements):
            assert await cache.get("a", b"x") == "Bern"
            assert cache.fault is None
            await cache.put("a", b"y", "Basel")
            assert cache.fault is not None, "and what has to be written waits, and says so"
        await cache.put("a", b"y", "Basel")
        assert [await cache.get("a", name) for name in (b"x", b"y")] == ["Bern", "Basel"]
        assert cache.fault is None


async def test_who_waited_while_it_was_found_locked_does_not_wait_for_that_again(path: Path) -> None:
    found: list[str | None] = []
    with closing(made(path)) as cache:
        await cache.put("a", b"x", "Bern")
        with holding(path, "BEGIN EXCLUSIVE") as other:

            async def get() -> None:
                found.append(await cache.get("a", b"x"))
                if other.in_transaction:  # free from the first on: who tried would have it
                    other.execute("ROLLBACK")

            async with anyio.create_task_group() as tasks:
                for _ in range(60):
                    tasks.start_soon(get)
        assert found == [None] * 60
        assert cache.fault is not None
        assert await cache.get("a", b"x") == "Bern"
        assert cache.fault is None


@pytest.mark.parametrize("kept", ["memory", "file"])
async def test_those_that_wait_can_be_cancelled_and_take_no_threads(path: Path, kept: str) -> None:
    """The first is held in the midst of it: the others go when they are told, and closing does not wait."""
    begun, go_on = threading.Event(), threading.Event()
    held: list[bool] = []
    in_threads: list[threading.Thread] = []

    def secret() -> bytes:
        in_threads.append(threading.current_thread())
        begun.set()
        held.append(go_on.wait(FOR_EVER_S))
        return bytes(32)

    cache = made(path if kept == "file" else "", secret)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.get, "a", b"x")
        while not begun.is_set():
            await anyio.lowlevel.checkpoint()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as waiting:
                for _ in range(50):
                    waiting.start_soon(cache.get, "a", b"x")
                await anyio.wait_all_tasks_blocked()
                assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
                scope.cancel()
        cache.close()
        assert held == [], "it has waited for nobody"
        go_on.set()
    assert held == [True]
    assert threading.current_thread() not in in_threads
    assert await cache.get("a", b"x") is None
    if kept == "file":
        assert descriptors_of(path) == 0, "whoever had it has closed it"


async def test_a_file_that_was_locked_when_it_was_opened_is_looked_at_all_the_same(path: Path) -> None:
    with closing(made(path)) as cache:
        await cache.put("a", b"x", "Bern")
    with holding(path, "CREATE TRIGGER t AFTER UPDATE ON answers BEGIN DELETE FROM answers; END") as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(made(path)) as cache:
            assert await cache.get("a", b"x") is None
            assert cache.fault is not None
            assert "locked" in cache.fault.message
            other.execute("ROLLBACK")
            assert await cache.get("a", b"x") is None
            assert cache.fault is not None
            assert "no cache of ours" in cache.fault.message
