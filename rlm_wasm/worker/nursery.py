"""Where the pool's workers come from: a zygote, kept running, for an async host.

A zygote that has died is replaced at the next fork. Its own workers die with it (the kernel sees to
that), and each of them is told to its sessions by its own socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.core.lockdown import Grade
from rlm_wasm.errors import HostExhausted, LockdownError, WorkerLost
from rlm_wasm.worker.child import Child
from rlm_wasm.worker.lockdown.report import Finding
from rlm_wasm.worker.lockdown.rlimits import ProcessLimits
from rlm_wasm.worker.patience import told_in_time
from rlm_wasm.worker.shortage import typed
from rlm_wasm.worker.zygote import Zygote
from rlm_wasm.worker.zygote_reports import Exited, Gone, Spawned, Unheld, ZygoteGone

ENTRY: Final = "rlm_wasm.worker.serving"
_EXIT_SECONDS_MAX: Final = 1.0
_LOOK_SECONDS: Final = 0.05


@dataclass(slots=True)
class _Birth:
    """One fork: asked for, told, and later what became of it."""

    told: anyio.Event = field(default_factory=anyio.Event)
    spawned: Spawned | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""
    abandoned: bool = False


@dataclass(slots=True)
class _Born(Child):
    """A child whose birth is remembered."""

    birth: _Birth


class Nursery:
    """One zygote at a time, and the workers it forks. Its tasks run in the pool's task group."""

    def __init__(
        self,
        limits: ProcessLimits,
        required: Iterable[str],
        tasks: TaskGroup,
        *,
        hang_ms_max: int,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits: Final = limits
        self._hang_ms_max: Final = hang_ms_max
        self._on_start: Final = on_start
        self._required: Final = tuple(required)
        self._tasks: Final = tasks
        self._lock = anyio.Lock()
        self._zygote: Zygote | None = None
        self._births: dict[int, _Birth] = {}
        self._closed = False
        # Of the last zygote that started, and what they come to.
        self.layers: tuple[Finding, ...] = ()
        self.grade: Grade | None = None
        # How many zygotes there have been.
        self.started = 0

    @property
    def zygote_pid(self) -> int | None:
        """The process that was started as the zygote; None: there is none now."""
        return None if self._zygote is None else self._zygote.pid

    async def fork(self) -> Child:
        """Return a fresh process that locks itself down and serves.

        Raises:
            LockdownError: the machine lacks a layer that is required.
            ArtifactError: no guest is built, or it is not what was built.
            HostExhausted: the kernel refuses the host what a worker takes.
            InternalError: the system refused it something else.
            WorkerLost: two zygotes in a row did not make one.
        """
        try:
            try:
                return await self._fork()
            except ZygoteGone:
                return await self._fork()
        except ZygoteGone as gone:
            raise WorkerLost(f"no worker process can be made: {gone.message}") from gone
        except OSError as error:
            # Typed here: anything else that leaves a task of the pool ends the pool, and every run in it.
            failure = typed(error, "no worker process can be made")
            raise failure from failure.__cause__

    async def _fork(self) -> Child:
        zygote = await self._running()
        ours, theirs = socket.socketpair()
        birth = _Birth()
        try:
            with theirs:
                self._births[zygote.spawn(theirs)] = birth
            await told_in_time(
                birth.told, zygote.cpu_ms, lambda: self._read(zygote), hang_ms_max=self._hang_ms_max
            )
            if birth.spawned is None:
                if birth.reason:
                    # The kernel gives no process now, or nothing to hold it by. Those that are there go on.
                    raise HostExhausted(f"no worker process can be made: {birth.reason}")
                reason = "the zygote does not fork"
                zygote.kill()
                await self._lose(zygote, reason)
                raise ZygoteGone(reason)
        except BaseException:
            # The worker, should it still come, finds nobody at the other end and ends.
            birth.abandoned = True
            ours.close()
            if birth.spawned is not None:
                os.close(birth.spawned.pidfd)
            raise
        return _Born(birth.spawned.pid, birth.spawned.pidfd, ours, birth, grade=zygote.grade)

    async def cause_of_death(self, child: Child) -> LockdownError | None:
        """Return why a worker that never served ended, if that was a missing layer."""
        if not isinstance(child, _Born):
            return None
        with anyio.move_on_after(_EXIT_SECONDS_MAX):
            await child.birth.ended.wait()
        return LockdownError(child.birth.reason) if child.birth.reason else None

    async def aclose(self) -> None:
        """End the zygote; its workers end with it. Safe to call again."""
        self._closed = True
        if self._zygote is not None:
            await self._lose(self._zygote, "the pool is closed")

    async def _running(self) -> Zygote:
        async with self._lock:
            if self._closed:
                raise WorkerLost("the pool is closed")
            if self._zygote is None:
                self._zygote = await self._start()
                self._tasks.start_soon(self._listen, self._zygote)
            return self._zygote

    async def _start(self) -> Zygote:
        """Start a zygote on another thread: an interpreter, a guest to load, a rehearsal."""
        started: list[Zygote] = []
        try:
            await anyio.to_thread.run_sync(
                lambda: started.append(Zygote.start(ENTRY, self._limits, required=self._required))
            )
        except BaseException:
            for zygote in started:  # cancelled while it started
                zygote.close()
            raise
        (zygote,) = started
        self.started += 1
        self._on_start()
        self.layers, self.grade = zygote.layers, zygote.grade
        return zygote

    async def _listen(self, zygote: Zygote) -> None:
        while zygote is self._zygote:
            try:
                await anyio.wait_readable(zygote.fileno())
            except anyio.ClosedResourceError:
                return
            except OSError:
                # The loop cannot watch one more descriptor. That is no reason to end a zygote.
                await anyio.sleep(_LOOK_SECONDS)
            await self._read(zygote)

    async def _read(self, zygote: Zygote) -> None:
        for report in zygote.reports():
            if isinstance(report, Gone):
                await self._lose(zygote, report.reason)
            else:
                self._take(report)

    def _take(self, report: Spawned | Exited | Unheld) -> None:
        birth = self._births.get(report.number)
        if isinstance(report, Spawned):
            if birth is None or birth.abandoned:
                os.close(report.pidfd)
                return
            birth.spawned = report
        elif isinstance(report, Unheld):
            if birth is not None:
                birth.reason = "no descriptor is left to hold it by"
        elif birth is not None:
            del self._births[report.number]
            birth.reason = birth.reason or report.reason
            birth.ended.set()
        if birth is not None:
            birth.told.set()

    async def _lose(self, zygote: Zygote, reason: str) -> None:
        if zygote is not self._zygote:
            return
        self._zygote = None
        births, self._births = self._births, {}
        for birth in births.values():
            birth.told.set()
            birth.ended.set()
        anyio.notify_closing(zygote.fileno())
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(zygote.close)
