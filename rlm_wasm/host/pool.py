"""The pool: sessions in locked worker processes, for an async host, on asyncio or trio.

What to do is decided in `placement` and `liveness`; here it is done. The pool owns every process it
starts: when it is closed, however that comes about, none is left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic_ns
from types import MappingProxyType, TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.errors import HostExhausted, Overloaded, PolicyError, RlmWasmError, UsageError, WorkerLost
from rlm_wasm.host.cell_slots import CellSlots
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.host.guest_search import found_guest
from rlm_wasm.host.liveness import hangs
from rlm_wasm.host.placement import Isolation, Placement
from rlm_wasm.host.pool_metrics import PoolCounters, PoolMetrics
from rlm_wasm.host.readiness import ended_in_time, told_in_time
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.host.session_ledger import report_bytes_max
from rlm_wasm.host.zygote_client import ZygoteClient
from rlm_wasm.ids import SessionId
from rlm_wasm.limits import (
    BASE_IMAGE,
    BoundaryLimits,
    CellLimits,
    SessionLimits,
    TenantLimits,
    WorkerLimits,
)
from rlm_wasm.lockdown import weakest
from rlm_wasm.protocol.process_limits import ProcessLimits
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot
from rlm_wasm.system.memfd import ARENA_BYTES
from rlm_wasm.system.memory_pressure import memory_pressure_permille
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.tenant import checked_tenant

_MEASURE_MS: Final = 1_000
_END_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Everything of a policy that a pool has to know."""

    isolation: Isolation
    workers: WorkerLimits
    tenants: TenantLimits
    session: SessionLimits
    cell: CellLimits
    boundary: BoundaryLimits
    # The layers of the lock-down without which no worker is started.
    required_layers: tuple[str, ...]
    # Which packages its sessions have.
    image: str = BASE_IMAGE

    def process(self) -> ProcessLimits:
        """Return what the kernel lets one worker process have."""
        workers, session = self.workers, self.session
        # The session's memory, and 16 bytes for each of its pages.
        image_bytes = session.memory_bytes_max + session.memory_bytes_max // 256 + 65_536
        alone = self.isolation == "session"
        sessions = 1 if alone else workers.sessions_per_worker_max
        return ProcessLimits(
            sessions_max=sessions,
            memory_bytes_max=session.memory_bytes_max,
            image_bytes_max=ARENA_BYTES,  # no file that a worker is lent can grow
            held_bytes_max=2 * image_bytes + sessions * session.checkpoint_bytes_max,
            files_max=8 * sessions + 64,
            cpu_seconds_max=workers.worker_cpu_seconds_max,
        )


@dataclass(slots=True)
class _Slot:
    """A worker, from the decision to start it until its process is no more."""

    domain: str
    # Of its start: whoever wants it no more cancels it.
    starting: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    # It serves, or `error` says why it does not.
    settled: anyio.Event = field(default_factory=anyio.Event)
    connection: Connection | None = None
    error: RlmWasmError | None = None
    unwanted: bool = False
    # Whose each of its sessions is, until that one's place is free.
    owners: dict[int, str] = field(default_factory=dict)
    cpu_ms: int | None = None
    # How much of its CPU time has been counted.
    counted_ns: int = 0


class WorkerPool:
    """Makes sessions in worker processes. Use it as an async context manager.

    `charge(tenant, ns)` is called with CPU time of processes that served this tenant alone.
    """

    def __init__(
        self,
        limits: PoolLimits,
        *,
        clock: Callable[[], int] = monotonic_ns,
        charge: Callable[[str, int], None] = lambda tenant, ns: None,
    ) -> None:
        self._limits: Final = limits
        self._clock: Final = clock
        self._charge: Final = charge
        self._counters: Final = PoolCounters()
        self._placement = Placement(limits.isolation, limits.workers, limits.tenants)
        self._cell_slots: Final = CellSlots(limits.tenants.cells_max)
        self._slots: dict[int, _Slot] = {}
        self._numbers = itertools.count(1)
        # Of each domain that has a zygote in the books.
        self._zygote_clients: dict[str, ZygoteClient] = {}
        # Those that were retired, until their zygotes are no more.
        self._leaving: set[ZygoteClient] = set()
        # The books free a place when its process is told to end. Its successor is not started before it has.
        self._processes = anyio.Semaphore(limits.workers.workers_max)
        self._zygotes = anyio.Semaphore(limits.workers.zygotes_max)
        self._tasks: TaskGroup | None = None
        self._supervising: anyio.CancelScope | None = None
        self._closed = False

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return self._placement.sessions

    @property
    def connections(self) -> list[Connection]:
        """The workers that serve."""
        connections = [slot.connection for slot in self._slots.values() if slot.connection is not None]
        return [connection for connection in connections if connection.lost is None]

    @property
    def zygote_clients(self) -> list[ZygoteClient]:
        """The zygotes' keepers, one for each domain of sessions that may share an address layout."""
        return [*list(self._zygote_clients.values()), *list(self._leaving)]

    def metrics(self) -> PoolMetrics:
        """Return what there is, and has been. Any thread may ask, also when the pool is closed."""
        placement, counters = self._placement, self._counters
        grade = weakest(
            zygote_client.grade for zygote_client in self.zygote_clients if zygote_client.grade is not None
        )
        return PoolMetrics(
            workers=placement.workers,
            sessions=placement.sessions,
            zygotes=sum(zygote_client.zygote_pid is not None for zygote_client in self.zygote_clients),
            memory_bytes=placement.memory_bytes,
            pressure_permille=placement.pressure_permille,
            workers_started=counters.workers_started,
            workers_lost=counters.workers_lost,
            sessions_lost=counters.sessions_lost,
            zygotes_started=counters.zygotes_started,
            cpu_ns=counters.cpu_ns,
            refusals=MappingProxyType(placement.refusals),
            lockdown="" if grade is None else grade.value,
        )

    async def session(
        self,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        *,
        tenant: str = "",
        start: SessionSnapshot | None = None,
    ) -> ProcessSession:
        """Make a session in a worker that the tenant may have, or fork one from an image of the tenant's.

        Raises:
            ArtifactError: no guest is built, or it is not what was built.
            LockdownError: the policy demands a layer that this machine does not have.
            Overloaded: the policy's sessions, workers, zygotes or memory are used up, or the tenant's part.
            PolicyError: the memory cap is below the guest's image.
            UsageError: the image is not of this pool, or is another tenant's.
            WorkerLost: the worker went before the session was there.
        """
        if self._tasks is None or self._closed:
            raise UsageError("the worker pool is closed; use it as an async context manager")
        tenant = checked_tenant(tenant)
        self._check(limits, tenant, start)
        try:
            return await self._session(limits, boundary, tenant, start)
        except HostExhausted as refused:
            # The kernel refuses that worker what a session takes. It may give it to another one.
            try:
                return await self._session(limits, boundary, tenant, start)
            except Overloaded:
                raise refused from None  # there is no other one

    async def _session(
        self, limits: SessionLimits, boundary: BoundaryLimits, tenant: str, start: SessionSnapshot | None
    ) -> ProcessSession:
        place = self._placement.place(tenant, self._clock())
        if place.instead_of is not None:
            self._end(place.instead_of, "its place was needed")
        if place.instead_of_zygote is not None:
            self._retire_zygote_client(place.instead_of_zygote)
        if place.fresh:
            domain = self._domain(tenant)
            slot = self._slots[place.worker] = _Slot(domain)
            assert self._tasks is not None
            self._tasks.start_soon(self._start, place.worker, slot, self._zygote_client(domain))
        try:
            slot, connection = await self._served(place.worker)
            _require_room(self._limits.image, limits, start)
        except BaseException:
            self._left(place.worker, tenant)
            raise
        alone = self._limits.isolation == "session"
        number = SessionId(next(self._numbers))
        slot.owners[number] = tenant
        session = ProcessSession(
            connection, number, limits, boundary, self._cell_slots.cell_slot(tenant), alone=alone
        )
        try:
            await session.open_in(limits, start)
        except BaseException as error:
            if isinstance(error, HostExhausted):
                self._retire(place.worker)
            session.abandon()  # cancelled: the guest may be there although nobody wants it
            raise
        return session

    def _check(self, limits: SessionLimits, tenant: str, start: SessionSnapshot | None) -> None:
        if limits.memory_bytes_max > self._limits.session.memory_bytes_max:
            raise UsageError("a session of this pool cannot have more memory than the pool's policy gives")
        if start is None:
            return
        if not isinstance(start, WorkerSnapshot):
            raise UsageError("the image is not of a worker process; save it and load it here")
        if start.tenant != self._domain(tenant):
            raise UsageError("the image belongs to another tenant")

    def _domain(self, tenant: str) -> str:
        """Whom a tenant's sessions may share a process and its address layout with."""
        return "" if self._limits.isolation == "shared" else tenant

    # -- workers -----------------------------------------------------------------------------------------

    async def _start(self, number: int, slot: _Slot, zygote_client: ZygoteClient) -> None:
        placed = False
        try:
            with slot.starting:
                await self._processes.acquire()
                placed = True
                await self._make(number, slot, zygote_client)
        except (RlmWasmError, OSError) as error:
            # Typed for whoever waits: what leaves a task of the pool ends the pool, and every run in it.
            slot.error = (
                error if isinstance(error, RlmWasmError) else wrap_os_error(error, "no worker can be made")
            )
        finally:
            connection = slot.connection
            if slot.error is None and (connection is None or not connection.served.is_set()):
                # Nobody wants it any more, or the pool is closed.
                slot.error = WorkerLost("the worker process is gone: it was ended before it served")
            slot.settled.set()
            if connection is None:
                self._placement.ended(number)
                self._slots.pop(number, None)
                if placed:
                    self._processes.release()
            elif slot.error is not None:
                connection.end(slot.error.message)

    async def _make(self, number: int, slot: _Slot, zygote_client: ZygoteClient) -> None:
        """Have a worker forked and wait until it serves."""
        child = await zygote_client.fork()
        try:
            connection = slot.connection = Connection(
                child,
                tenant=slot.domain,
                report_bytes_max=report_bytes_max(self._limits.cell, self._limits.boundary),
                unsent_bytes_max=self._limits.workers.unsent_bytes_max,
                hang_ms_max=self._limits.workers.hang_ms_max,
                ended=lambda connection: self._ended(number, connection),
                closed=lambda connection, session: self._left(number, slot.owners.pop(session)),
                alone=self._limits.isolation == "session",
            )
        except BaseException:
            child.kill()
            with anyio.CancelScope(shield=True):
                await ended_in_time(child, _END_SECONDS_MAX)
            raise
        self._counters.worker_started()
        assert self._tasks is not None
        self._tasks.start_soon(connection.serve)
        hang_ms = self._limits.workers.hang_ms_max
        if not await told_in_time(connection.served, child.cpu_ms, connection.catch_up, hang_ms_max=hang_ms):
            connection.end(f"it gave no first sign of life for {hang_ms} ms")
        if connection.lost is not None:
            slot.error = await zygote_client.cause_of_death(child) or connection.lost

    def _zygote_client(self, domain: str) -> ZygoteClient:
        zygote_client = self._zygote_clients.get(domain)
        if zygote_client is None:
            assert self._tasks is not None
            zygote_client = self._zygote_clients[domain] = ZygoteClient(
                self._limits.process(),
                self._limits.required_layers,
                self._tasks,
                hang_ms_max=self._limits.workers.hang_ms_max,
                places=self._zygotes,
                image=self._limits.image,
                on_start=self._counters.zygote_started,
            )
        return zygote_client

    def _retire_zygote_client(self, domain: str) -> None:
        """End a zygote that nobody uses, and the idle workers that would end with it."""
        for number, slot in list(self._slots.items()):
            if slot.domain == domain:
                self._end(number, "its zygote's place was needed")
        zygote_client = self._zygote_clients.pop(domain, None)
        if zygote_client is not None:
            assert self._tasks is not None
            self._leaving.add(zygote_client)
            self._tasks.start_soon(self._see_off, zygote_client)

    async def _see_off(self, zygote_client: ZygoteClient) -> None:
        await zygote_client.aclose()
        self._leaving.discard(zygote_client)

    async def _served(self, number: int) -> tuple[_Slot, Connection]:
        slot = self._slots[number]
        await slot.settled.wait()
        if slot.error is not None:
            # One of its own for each who waits: an exception that is raised twice keeps both traces.
            raise type(slot.error)(slot.error.message, hint=slot.error.hint)
        if slot.connection is None:
            raise WorkerLost("the worker process is gone: it was ended before it served")
        return slot, slot.connection

    def _retire(self, number: int) -> None:
        self._placement.retire(number)
        self._end_all(self._placement.tick(self._clock()), "it could not make a session")

    def _left(self, number: int, tenant: str) -> None:
        if self._placement.left(number, tenant):
            self._end(number, "it has served its sessions")

    def _end(self, number: int, reason: str) -> None:
        self._placement.ended(number)
        slot = self._slots.get(number)
        if slot is None or slot.unwanted:
            return
        slot.unwanted = True
        self._count_cpu(slot)  # while it is there for certain
        slot.starting.cancel()
        if slot.connection is not None:
            slot.connection.end(reason)

    def _ended(self, number: int, connection: Connection) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            self._count_cpu(slot)  # of one that died it may be there still
            if not slot.unwanted:
                self._counters.worker_lost(self._placement.sessions_in(number))
        self._placement.ended(number)
        assert self._tasks is not None
        self._tasks.start_soon(self._bury, number, connection)

    async def _bury(self, number: int, connection: Connection) -> None:
        with anyio.CancelScope(shield=True):
            await connection.over.wait()
        await ended_in_time(connection.child, _END_SECONDS_MAX)
        self._slots.pop(number, None)
        self._processes.release()
        connection.gone.set()

    # -- watching ----------------------------------------------------------------------------------------

    async def _supervise(self, scope: anyio.CancelScope) -> None:
        measured_ns = 0
        now = self._clock()
        with scope:
            while True:
                before = now
                await anyio.sleep(self._limits.workers.heartbeat_ms / 1000)
                now = self._clock()
                late_ns = now - before - self._limits.workers.heartbeat_ms * 1_000_000
                for slot in list(self._slots.values()):
                    if slot.connection is not None and late_ns > 0:
                        # We stood still ourselves; what stopped us may have stopped the worker too.
                        slot.connection.excuse(late_ns)
                    self._watch(slot, now)
                if now - measured_ns >= _MEASURE_MS * 1_000_000:
                    measured_ns = now
                    self._measure(now)

    def _watch(self, slot: _Slot, now: int) -> None:
        connection = slot.connection
        if connection is None or connection.lost is not None or not connection.busy:
            return
        if connection.overdue(now) is not None:
            connection.read()  # our own loop may have been late
            if connection.lost is None and (owed := connection.overdue(now)) is not None:
                connection.end(f"it does not {owed}")
                return
        if not connection.ping_outstanding:
            slot.cpu_ms = connection.child.cpu_ms()
            connection.ping()
            return
        hang_ms = self._limits.workers.hang_ms_max
        if connection.silent_ns(now) < hang_ms * 1_000_000:
            return
        connection.read()  # our own loop may have been late
        used = connection.child.cpu_ms()
        if used is not None and slot.cpu_ms is not None:
            used -= slot.cpu_ms
        if connection.lost is None and hangs(
            connection.silent_ns(now), used, hang_ms, copies=connection.copies
        ):
            connection.end(f"it gave no sign of life for {hang_ms} ms")

    def _measure(self, now: int) -> None:
        for number, slot in self._slots.items():
            if slot.connection is not None and slot.connection.lost is None:
                self._placement.measured(number, slot.connection.memory_bytes())
                self._count_cpu(slot)
        for number in list(self._placement.too_large()):
            self._counters.worker_lost(self._placement.sessions_in(number))
            self._end(number, "it held more memory than a worker may")
        self._placement.pressure(memory_pressure_permille())
        self._end_all(self._placement.tick(now), "it has served its time")

    def _count_cpu(self, slot: _Slot) -> None:
        used = None if slot.connection is None else slot.connection.child.cpu_ns()
        if slot.connection is None or used is None or used <= slot.counted_ns:
            return
        more, slot.counted_ns = used - slot.counted_ns, used
        self._counters.cpu_ns += more
        if self._limits.isolation != "shared":
            self._charge(slot.connection.tenant, more)

    def _end_all(self, numbers: Iterable[int], reason: str) -> None:
        for number in list(numbers):
            self._end(number, reason)

    # -- its life ----------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End every session, worker and zygote, and whatever is being started. Safe to call again."""
        tasks = self._tasks
        if self._closed or tasks is None:
            return
        self._closed = True
        self._placement.drain()
        with anyio.CancelScope(shield=True):
            self._end_all(self._slots, "the pool is closed")
            async with anyio.create_task_group() as ends:
                for zygote_client in self.zygote_clients:
                    ends.start_soon(zygote_client.aclose)
        if self._supervising is not None:
            self._supervising.cancel()
        await tasks.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise UsageError("the worker pool is open already")
        await found_guest(self._limits.image)  # before anybody on the event loop asks for it
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._supervising = anyio.CancelScope()
        tasks.start_soon(self._supervise, self._supervising)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _require_room(image: str, limits: SessionLimits, start: SessionSnapshot | None) -> None:
    """Check that a session's memory holds what it starts from. The guest was read when its zygote started."""
    size = guest_files(image).guest.facts.image_bytes if start is None else start.size
    if limits.memory_bytes_max < size:
        raise PolicyError(
            f"sandbox.memory_bytes_max is {limits.memory_bytes_max}, below the image's {size} bytes"
        )
