"""Tasks that perform one job after another: waking an idle one is cheaper than starting a new one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.errors import InternalError

T = TypeVar("T")
# An idle task holds a few kilobytes; more of them than this are not worth keeping.
IDLE_MAX: Final = 1_024


@dataclass(slots=True, eq=False)
class _PooledTask(Generic[T]):
    """A task that is used again. Idle, it waits at `woken` for who has given it a job."""

    job: T | None = None  # given, and not yet taken
    # Released once for each job, and only while the task waits. An event would have to be made anew
    # for each: making and waiting for one costs more than all that is done with a job here.
    woken: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(0, fast_acquire=True))


class TaskPool(Generic[T]):
    """Performs each job given, all at the same time. `perform` must not raise; cancellation ends it.

    Every job is begun, also one that is given while `run` is being cancelled: that one is cancelled where
    it first waits, and can undo what it has to. Once `run` has ended no job may be given.

    It gets a job and the cancel scope that this job, and no other, is performed in; whoever cancels
    it must do so before the job has ended. Jobs may be given where no task runs, in a callback of the
    event loop.
    """

    def __init__(self, perform: Callable[[T, anyio.CancelScope], Awaitable[None]]) -> None:
        self._perform = perform
        self._idle: dict[_PooledTask[T], None] = {}
        self._new: deque[T] = deque()
        self._came: anyio.Event | None = None

    def give(self, job: T) -> None:
        """Perform `job` soon."""
        if self._idle:
            task, _ = self._idle.popitem()
            task.job = job
            task.woken.release()
            return
        self._new.append(job)
        if self._came is not None:
            self._came.set()

    async def run(self) -> None:
        """Perform jobs until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    while True:
                        self._came = anyio.Event()
                        self._begin_new(tasks)
                        await self._came.wait()
                finally:
                    self._begin_new(tasks)
        finally:
            # What was given while those under way ended, by one of them or in a callback.
            with anyio.CancelScope(shield=True):
                while self._new:
                    async with anyio.create_task_group() as tasks:
                        tasks.cancel_scope.cancel()
                        self._begin_new(tasks)

    def _begin_new(self, tasks: TaskGroup) -> None:
        while self._new:
            tasks.start_soon(self._serve, self._new.popleft())

    async def _serve(self, job: T | None) -> None:
        task = _PooledTask[T]()
        while True:
            # To enter a scope costs as much as a job: one serves until a job of its is cancelled.
            with anyio.CancelScope() as scope:
                while job is not None:
                    await self._perform(job, scope)
                    job = None  # an idle task keeps no prompt in memory
                    if scope.cancel_called or len(self._idle) >= IDLE_MAX:
                        break
                    job = await self._next(task)
            if len(self._idle) >= IDLE_MAX:
                return
            job = await self._next(task)

    async def _next(self, task: _PooledTask[T]) -> T:
        self._idle[task] = None
        try:
            await task.woken.acquire()
        except BaseException:
            self._idle.pop(task, None)
            if task.job is not None:  # given when this task was cancelled already
                with anyio.CancelScope() as scope:
                    await self._perform(task.job, scope)
            raise
        job, task.job = task.job, None
        if job is None:
            raise InternalError("a task was woken without a job")
        return job
