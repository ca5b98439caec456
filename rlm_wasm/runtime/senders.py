"""Tasks that perform one job after another: waking an idle one is cheaper than starting a new one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import anyio

from rlm_wasm.errors import InternalError

T = TypeVar("T")
# An idle task holds a few kilobytes; more of them than this are not worth keeping.
IDLE_MAX: Final = 256


@dataclass(slots=True)
class _Idle(Generic[T]):
    """A task that waits for its next job."""

    woken: anyio.Event = field(default_factory=anyio.Event)
    job: T | None = None


class Senders(Generic[T]):
    """Performs each job given, all at the same time. `perform` must not raise; cancellation ends it.

    Jobs may be given where no task runs, in a callback of the event loop.
    """

    def __init__(self, perform: Callable[[T], Awaitable[None]]) -> None:
        self._perform = perform
        self._idle: list[_Idle[T]] = []
        self._new: deque[T] = deque()
        self._came: anyio.Event | None = None

    def give(self, job: T) -> None:
        """Perform `job` soon."""
        if self._idle:
            idle = self._idle.pop()
            idle.job = job
            idle.woken.set()
            return
        self._new.append(job)
        if self._came is not None:
            self._came.set()

    async def run(self) -> None:
        """Perform jobs until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._came = anyio.Event()
                while self._new:
                    tasks.start_soon(self._serve, self._new.popleft())
                await self._came.wait()

    async def _serve(self, job: T) -> None:
        while True:
            await self._perform(job)
            if len(self._idle) >= IDLE_MAX:
                return
            idle: _Idle[T] = _Idle()
            self._idle.append(idle)
            await idle.woken.wait()
            if idle.job is None:
                raise InternalError("a sender was woken without a job")
            job = idle.job
