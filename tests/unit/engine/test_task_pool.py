"""Tasks that are used again: every job is performed, all at once, and none is left behind."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.engine.task_pool import IDLE_MAX, TaskPool

pytestmark = pytest.mark.anyio


async def test_jobs_are_performed_at_the_same_time_and_idle_tasks_are_used_again() -> None:
    performed: list[int] = []
    gate = anyio.Event()
    by: dict[int, object] = {}

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        by[job] = anyio.get_current_task().id
        await gate.wait()
        performed.append(job)

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        for job in range(3):
            senders.give(job)  # before it runs: they wait
        tasks.start_soon(senders.run)
        await anyio.wait_all_tasks_blocked()
        assert len(set(by.values())) == 3
        gate.set()
        await anyio.wait_all_tasks_blocked()
        senders.give(3)
        senders.give(4)
        await anyio.wait_all_tasks_blocked()
        assert sorted(performed) == [0, 1, 2, 3, 4]
        assert {by[3], by[4]} < {by[0], by[1], by[2]}
        tasks.cancel_scope.cancel()


async def test_a_job_may_be_given_where_no_task_runs() -> None:
    performed = anyio.Event()

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        performed.set()

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(senders.run)
        await anyio.wait_all_tasks_blocked()
        token = anyio.lowlevel.current_token()
        native = token.native_token
        soon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        soon(senders.give, 1)
        await performed.wait()
        tasks.cancel_scope.cancel()


async def test_no_more_idle_tasks_are_kept_than_the_limit_says() -> None:
    alive = 0

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        await anyio.lowlevel.checkpoint()

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(senders.run)
        for job in range(2 * IDLE_MAX):
            senders.give(job)
        await anyio.wait_all_tasks_blocked()
        alive = len(senders._idle)
        tasks.cancel_scope.cancel()
    assert alive == IDLE_MAX


async def test_a_job_that_is_cancelled_takes_no_other_with_it() -> None:
    performed: list[int] = []
    scopes: dict[int, anyio.CancelScope] = {}
    by: dict[int, object] = {}

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        scopes[job] = scope
        by[job] = anyio.get_current_task().id
        if job in (1, 2):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                if job == 1:
                    raise
                return  # as if it had not been cancelled
        performed.append(job)

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(senders.run)
        for job in range(4):
            senders.give(job)
            await anyio.wait_all_tasks_blocked()
            if job in (1, 2):
                scopes[job].cancel()
                await anyio.wait_all_tasks_blocked()
        senders.give(4)
        senders.give(5)  # while the one that is idle has a job already
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert sorted(performed) == [0, 3, 4, 5]
    assert len({by[job] for job in range(5)}) == 1, "one task did them all"
    assert by[5] != by[4]
    assert scopes[0] is scopes[1]
    assert scopes[3] is scopes[4]
    assert len({id(scopes[job]) for job in (1, 2, 3)}) == 3


@pytest.mark.parametrize("idle", [0, 1])
async def test_a_job_that_is_given_while_all_are_cancelled_is_begun(idle: int) -> None:
    """Given to an idle task, or to a new one: a child that was started must be told that it has ended."""
    begun: list[int] = []
    undone: list[int] = []

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        begun.append(job)
        try:
            if job:
                await anyio.sleep_forever()
        finally:
            undone.append(job)

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(senders.run)
        for _ in range(idle):
            senders.give(0)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        senders.give(1)
        senders.give(2)
    assert sorted(begun) == sorted(undone) == [0] * idle + [1, 2]


async def test_a_job_that_is_given_while_the_others_end_is_begun() -> None:
    begun: list[int] = []

    async def perform(job: int, scope: anyio.CancelScope) -> None:
        begun.append(job)
        try:
            await anyio.sleep_forever()
        finally:
            if job < 3:
                senders.give(job + 1)

    senders = TaskPool(perform)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(senders.run)
        senders.give(0)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert begun == [0, 1, 2, 3]
