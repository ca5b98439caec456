"""An async client of a zygote: it keeps one running and has it fork the pool's workers.

A zygote that has died is replaced at the next fork, once nothing is left of it. Its own workers die with
it (the kernel sees to that), and each of them is told to its sessions by its own socket.

One task owns a zygote from the decision to start it until it is reaped, so that whoever closes the
zygotes ends it at any moment in between. It is not the task of who needed it first: that one may give up,
and the next, who may give up as soon, finds the start further on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.errors import HostExhausted, LockdownError, RlmWasmError, WorkerLost
from rlm_wasm.host.liveness import stands_still
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.host.readiness import told_in_time
from rlm_wasm.host.zygote import CLOSE_SECONDS_MAX, START_SECONDS_MAX, Zygote
from rlm_wasm.host.zygote_start import ZygoteStart
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.lockdown import Finding, Grade
from rlm_wasm.protocol.process_limits import ProcessLimits
from rlm_wasm.protocol.zygote_reports import Exited, Gone, Spawned, Unheld, ZygoteGone
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.system.threads import in_thread

ENTRY: Final = "rlm_wasm.jail.worker_entry"
_NO_WORKER: Final = "no worker process can be made"
_EXIT_SECONDS_MAX: Final = 1.0
_LOOK_SECONDS: Final = 0.05
# A zygote that starts has something to do at any moment. It may wait for a slow disk, but not for so long.
_STILL_SECONDS_MAX: Final = 5.0
# How often to look whether a process that was told to end, or is being made, has come so far.
_REAP_SECONDS: Final = 0.002
# For so long after it was killed. What the kernel has not ended then is not waited for any more.
_KILLED_SECONDS_MAX: Final = 5.0


@dataclass(slots=True)
class _Birth:
    """One fork: asked for, told, and later what became of it."""

    told: anyio.Event = field(default_factory=anyio.Event)
    spawned: Spawned | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class _Born(ProcessHandle):
    """A child whose birth is remembered."""

    birth: _Birth


@dataclass(slots=True)
class _Life:
    """One zygote, from the decision to start it until nothing is left of it."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    zygote: Zygote | None = None
    error: RlmWasmError | None = None
    # It serves, or `error` says why it does not.
    settled: anyio.Event = field(default_factory=anyio.Event)
    lost: bool = False
    over: anyio.Event = field(default_factory=anyio.Event)


class ZygoteClient:
    """One zygote at a time, and the workers it forks. Its tasks run in the pool's task group."""

    def __init__(
        self,
        limits: ProcessLimits,
        required: Iterable[str],
        tasks: TaskGroup,
        *,
        hang_ms_max: int,
        places: anyio.Semaphore | None = None,
        on_start: Callable[[], None] = lambda: None,
        image: str = BASE_IMAGE,
    ) -> None:
        self._image: Final = image
        self._limits: Final = limits
        self._hang_ms_max: Final = hang_ms_max
        self._on_start: Final = on_start
        self._required: Final = tuple(required)
        self._tasks: Final = tasks
        # One for each process of a zygote that there may be, in all zygote_clients.
        self._places: Final = places or anyio.Semaphore(1)
        self._life: _Life | None = None
        self._births: dict[int, _Birth] = {}
        self._closed = False
        # Of the last zygote that started, and what they come to.
        self.layers: tuple[Finding, ...] = ()
        self.grade: Grade | None = None
        # How many zygotes there have been.
        self.started = 0

    @property
    def zygote_pid(self) -> int | None:
        """The process that was started as the zygote, from then until it is reaped; None: there is none."""
        zygote = None if self._life is None else self._life.zygote
        return None if zygote is None else zygote.pid

    async def fork(self) -> ProcessHandle:
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
            failure = wrap_os_error(error, _NO_WORKER, ours=True)
            raise failure from failure.__cause__

    async def _fork(self) -> ProcessHandle:
        life, zygote = await self._serving()
        ours, theirs = socket.socketpair()
        birth = _Birth()
        asked = False
        try:
            with theirs:
                self._births[zygote.spawn(theirs)] = birth
                asked = True
            await told_in_time(
                birth.told, zygote.cpu_ms, lambda: self._catch_up(life), hang_ms_max=self._hang_ms_max
            )
            if birth.spawned is None:
                if birth.reason:
                    # The kernel gives no process now, or nothing to hold it by. Those that are there go on.
                    raise HostExhausted(f"no worker process can be made: {birth.reason}")
                zygote.kill()
                self._lose(life)
                raise ZygoteGone("the zygote does not fork")
        except BaseException:
            # The worker, should it still come, is nobody's. Its place is taken until it is gone.
            birth.abandoned = True
            ours.close()
            if birth.spawned is not None:
                _end(birth.spawned.pidfd)
            if asked:
                with anyio.move_on_after(_EXIT_SECONDS_MAX, shield=True):
                    await birth.ended.wait()
            raise
        return _Born(birth.spawned.pid, birth.spawned.pidfd, ours, birth, grade=zygote.grade)

    async def cause_of_death(self, child: ProcessHandle) -> LockdownError | None:
        """Return why a worker that never served ended, if that was a missing layer."""
        if not isinstance(child, _Born):
            return None
        with anyio.move_on_after(_EXIT_SECONDS_MAX):
            await child.birth.ended.wait()
        return LockdownError(child.birth.reason) if child.birth.reason else None

    async def aclose(self) -> None:
        """End the zygote, one that is being started too; its workers end with it. Safe to call again."""
        self._closed = True
        life = self._life
        if life is not None:
            self._lose(life)
            # Its end is bounded, and whoever closes the zygotes may rely on it.
            with anyio.CancelScope(shield=True):
                await life.over.wait()

    async def _serving(self) -> tuple[_Life, Zygote]:
        """Return the zygote that serves; start one if there is none."""
        while (life := self._life) is not None and life.lost:
            await life.over.wait()  # another one is not started beside it
        if self._closed:
            raise WorkerLost("the pool is closed")
        if life is None:
            life = self._life = _Life()
            self._tasks.start_soon(self._live, life)
        await life.settled.wait()
        if life.zygote is not None and not life.lost:
            return life, life.zygote
        await life.over.wait()
        if self._closed:
            raise WorkerLost("the pool is closed")
        if life.error is None:
            raise ZygoteGone("the zygote ended")
        # One of its own for each who waits: an exception that is raised twice keeps both traces.
        raise type(life.error)(life.error.message, hint=life.error.hint)

    async def _live(self, life: _Life) -> None:
        """Start a zygote, listen to it, and see to its end."""
        placed = False
        try:
            with life.scope:
                await self._places.acquire()
                placed = True
                await self._start(life)
                life.settled.set()
                await self._listen(life)
        except (RlmWasmError, OSError) as error:
            # Typed for whoever waits: what leaves a task of the pool ends the pool, and every run in it.
            life.error = (
                error if isinstance(error, RlmWasmError) else wrap_os_error(error, _NO_WORKER, ours=True)
            )
        finally:
            self._lose(life)
            life.settled.set()
            with anyio.CancelScope(shield=True):
                await _ended(life.zygote)
            if placed:
                self._places.release()
            self._life = None
            life.over.set()

    async def _start(self, life: _Life) -> None:
        """Start a zygote: an interpreter, a guest to load, a warm-up."""
        start = ZygoteStart(ENTRY, self._limits, self._required, self._image)
        try:
            await in_thread(start.run, abandon_on_cancel=True)
        finally:
            zygote = life.zygote = start.take()
            if zygote is None:
                with anyio.move_on_after(_KILLED_SECONDS_MAX, shield=True):
                    while start.making:  # noqa: ASYNC110 - a thread of its own has no event of ours
                        await anyio.sleep(_REAP_SECONDS)
            else:
                self.started += 1
                self._on_start()
        if zygote is None:
            raise ZygoteGone("the zygote was not started")
        with anyio.move_on_after(START_SECONDS_MAX) as bound:
            while not zygote.ready():
                before_ms = zygote.start_cpu_ms()
                with anyio.move_on_after(_STILL_SECONDS_MAX) as still:
                    await _readable(zygote)
                if still.cancelled_caught and stands_still(before_ms, zygote.start_cpu_ms()):
                    raise ZygoteGone("the zygote stood still while it started")
        if bound.cancelled_caught:
            raise ZygoteGone(f"the zygote did not start within {START_SECONDS_MAX:.0f} s")
        self.layers, self.grade = zygote.layers, zygote.grade

    async def _listen(self, life: _Life) -> None:
        while life.zygote is not None and not life.lost:
            await _readable(life.zygote)
            self._read(life)

    async def _catch_up(self, life: _Life) -> None:
        self._read(life)

    def _read(self, life: _Life) -> None:
        if life.zygote is None or life.lost:
            return
        for report in life.zygote.reports():
            if isinstance(report, Gone):
                self._lose(life)
            else:
                self._take(report)

    def _take(self, report: Spawned | Exited | Unheld) -> None:
        birth = self._births.get(report.number)
        if isinstance(report, Spawned):
            if birth is None or birth.abandoned or birth.spawned is not None:
                _end(report.pidfd)
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

    def _lose(self, life: _Life) -> None:
        """Note that a zygote forks no more. The task that owns it sees to its end."""
        if life.lost:
            return
        life.lost = True
        births, self._births = self._births, {}
        for birth in births.values():
            birth.told.set()
            birth.ended.set()
        life.scope.cancel()


def _end(pidfd: int) -> None:
    """End a worker that nobody wants, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


async def _readable(zygote: Zygote) -> None:
    """Wait until a zygote has said something."""
    try:
        await anyio.wait_readable(zygote.fileno())
    except OSError:
        # The loop cannot watch one more descriptor. That is no reason to end a zygote.
        await anyio.sleep(_LOOK_SECONDS)


async def _ended(zygote: Zygote | None) -> None:
    """End a zygote and wait until it is reaped, without a thread: there may be none left."""
    if zygote is None:
        return
    if not zygote.serves:
        zygote.kill()  # it notices no closed socket while it starts
    zygote.hang_up()
    for seconds_max in (CLOSE_SECONDS_MAX, _KILLED_SECONDS_MAX):
        with anyio.move_on_after(seconds_max):
            while not zygote.ended():  # noqa: ASYNC110 - the kernel sets no event of ours
                await anyio.sleep(_REAP_SECONDS)
            return
        zygote.kill()
