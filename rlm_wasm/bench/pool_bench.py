"""The cost of one pool: 2,000 sessions over 8 locked workers, and what endless neighbours take from them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter_ns
from typing import Final

import anyio

from rlm_wasm.bench.lockdown import layers_required
from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.errors import InternalError
from rlm_wasm.host.pool import PoolLimits, WorkerPool
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.limits import NO_TENANT_LIMITS
from rlm_wasm.outcomes import Outcome
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult

_WORKERS: Final = 8
_SESSIONS: Final = 2_000
_SESSIONS_QUICK: Final = 160
# Sessions that never end a cell by themselves, in each worker: what they get of it is compared.
_ENDLESS: Final = 2
_SAMPLE: Final = 200
# How many sessions are opened at one moment.
_OPENING: Final = 16
_SHARE_SECONDS: Final = 2.0
_SECONDS_MAX: Final = 240.0
_MIB: Final = 1 << 20


class PoolBench:
    """Measurements of many sessions in few locked workers, under the policy's limits but for their number."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._limits = _limits(policy)
        self._quick = quick
        self._taken: dict[str, Measurement] | None = None

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        names = ("pool_2000_s", "pool_crowd_s", "pool_cell_ms", "pool_spread_x", "pool_held_mb")
        return {name: lambda name=name: self._measured()[name] for name in names}  # type: ignore[misc]

    def _measured(self) -> dict[str, Measurement]:
        """Take all figures of one pool, once."""
        if self._taken is None:
            taken = anyio.run(self._measure)
            self._taken = {measurement.name: measurement for measurement in taken}
        return self._taken

    async def _measure(self) -> list[Measurement]:
        count = _SESSIONS_QUICK if self._quick else _SESSIONS
        async with WorkerPool(self._limits) as pool:
            crowd = _Crowd(pool, self._limits)
            with anyio.fail_after(_SECONDS_MAX):
                return await crowd.measure(count, 40 if self._quick else _SAMPLE)


class _Crowd:
    """The sessions of one pool: some endless ones in each worker, and many that count."""

    def __init__(self, pool: WorkerPool, limits: PoolLimits) -> None:
        self._pool = pool
        self._limits = limits
        self._endless: list[ProcessSession] = []
        self._others: list[ProcessSession] = []
        self._shares: dict[object, list[int]] = defaultdict(list)

    async def measure(self, count: int, samples: int) -> list[Measurement]:
        """Open the sessions, run cells in all of them, and compare what each got."""
        # One after another, each where there are fewest: so each worker gets as many.
        self._endless = [await self._open() for _ in range(_WORKERS * _ENDLESS)]
        workers = [session.process_id for session in self._endless]
        if sorted(workers.count(worker) for worker in set(workers)) != [_ENDLESS] * _WORKERS:
            raise InternalError("the endless sessions are not spread over all workers")
        began = perf_counter_ns()
        await self._grow(count)
        opened_s = (perf_counter_ns() - began) / 1e9
        async with anyio.create_task_group() as tasks:
            for session in self._endless:
                tasks.start_soon(self._run_endless, session)
            await anyio.sleep(_SHARE_SECONDS)  # every worker is busy from here on
            alone_ms = sorted([await self._timed(at) for at in self._sampled(samples)])
            crowd_s = await self._all_at_once()
            await anyio.sleep(_SHARE_SECONDS)
            for session in self._endless:
                session.interrupt()
        if self._pool.sessions != count + len(self._endless) or len(self._pool.connections) != _WORKERS:
            raise InternalError("not every session and worker is still there")
        held = [connection.child.memory_bytes() or 0 for connection in self._pool.connections]
        spread = max(max(fuel) / min(fuel) for fuel in self._shares.values())
        where = f"{count} sessions in {_WORKERS} locked workers, {_ENDLESS} endless neighbours in each"
        return [
            Measurement("pool_2000_s", opened_s, "s", count, f"{where}: made, and a first cell in each"),
            Measurement("pool_crowd_s", crowd_s, "s", count, "a cell in every one at the same time; all end"),
            Measurement(
                "pool_cell_ms",
                statistics.median(alone_ms),
                "ms",
                len(alone_ms),
                f"one cell between the endless; p99 {alone_ms[len(alone_ms) * 99 // 100]:.0f} ms, "
                f"most {alone_ms[-1]:.0f} ms",
            ),
            Measurement(
                "pool_spread_x",
                spread,
                "x",
                len(self._endless),
                "most over least fuel of the endless of one worker, the worst worker",
            ),
            Measurement("pool_held_mb", sum(held) / _MIB, "mb", count, "all workers together"),
        ]

    async def _grow(self, count: int) -> None:
        left = iter(range(count))

        async def some() -> None:
            for _ in left:  # shared: whoever is free takes the next
                session = await self._open()
                self._others.append(session)
                _expect(await self._run(session, "n = 1; n"), "1")

        async with anyio.create_task_group() as tasks:
            for _ in range(_OPENING):
                tasks.start_soon(some)

    def _sampled(self, samples: int) -> range:
        return range(0, len(self._others), max(1, len(self._others) // samples))

    async def _timed(self, at: int) -> float:
        began = perf_counter_ns()
        _expect(await self._run(self._others[at], "n"), "1")
        return (perf_counter_ns() - began) / 1e6

    async def _all_at_once(self) -> float:
        async def count_up(session: ProcessSession) -> None:
            _expect(await self._run(session, "n += 1; n"), "2")

        began = perf_counter_ns()
        async with anyio.create_task_group() as tasks:
            for session in self._others:
                tasks.start_soon(count_up, session)
        return (perf_counter_ns() - began) / 1e9

    async def _run_endless(self, session: ProcessSession) -> None:
        result = await self._run(session, "while True: pass")
        if result.outcome is not Outcome.CANCELLED:
            raise InternalError(f"an endless cell ended by itself: {result.outcome}, {result.error}")
        self._shares[session.process_id].append(result.fuel_used)

    async def _open(self) -> ProcessSession:
        return await self._pool.session(self._limits.session, self._limits.boundary)

    async def _run(self, session: ProcessSession, source: str) -> CellResult:
        return await session.run(Cell(source, self._limits.cell))


def _limits(policy: Policy) -> PoolLimits:
    """Return the policy's limits with room for as many sessions, each endless cell for all its time."""
    room = _SESSIONS + _WORKERS * _ENDLESS
    return PoolLimits(
        isolation="shared",
        tenants=NO_TENANT_LIMITS,
        workers=replace(
            policy.workers,
            workers_max=_WORKERS,
            sessions_max=room,
            # Each as many as the others: a lost one takes an eighth along.
            sessions_per_worker_max=-(-room // _WORKERS),
        ),
        session=policy.session_limits(),
        cell=replace(policy.cell, fuel_max=1 << 50, wall_ms_max=int(_SECONDS_MAX * 1_000)),
        boundary=policy.boundary,
        required_layers=layers_required(),
    )


def _expect(result: CellResult, shown: str) -> None:
    if result.result != shown:
        raise InternalError(f"a cell came to {result.outcome}, {result.error or result.result}")
