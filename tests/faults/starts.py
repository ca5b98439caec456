"""Sessions that are being started when their callers give up, their pool closes or their zygote is struck."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import anyio
import anyio.lowlevel

from rlm_wasm.errors import Overloaded, RlmWasmError
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.worker import Worker
from rlm_wasm.inline.worker import InlineWorker
from tests.faults.leftovers import children_of, nothing_left
from tests.faults.rounds import HANG_MS, ISOLATIONS, STUCK_SECONDS, TOLD_SECONDS_MAX, Tally, watch_the_clock
from tests.faults.steps import LOST, outcome_of
from tests.faults.strikes import STRIKES, Strike
from tests.support.pool_facts import pool_limits, running, until
from tests.support.sandbox_facts import boundary_limits, session_limits

ZYGOTES_MAX: Final = 2
WORKERS_MAX: Final = 3
_LOOK_SECONDS: Final = 0.0005
_OF_ZYGOTES: Final = tuple(strike for strike in STRIKES if strike.hits == "zygote")


def _life(pool: WorkerPool) -> Any:
    return next(
        (zygote_client._life for zygote_client in pool.zygote_clients if zygote_client._life is not None),
        None,
    )


def _zygote(pool: WorkerPool) -> Any:
    return None if (life := _life(pool)) is None else life.zygote


# How far the first start has come, in the order in which it does.
MOMENTS: Final[dict[str, Callable[[WorkerPool], object]]] = {
    "decided": lambda pool: True,
    "in the books": lambda pool: pool.sessions,
    "begun": lambda pool: _life(pool) is not None,
    "launched": lambda pool: _zygote(pool) is not None,
    "ready": lambda pool: (zygote := _zygote(pool)) is not None and zygote.serves,
    "forking": lambda pool: any(zygote_client._births for zygote_client in pool.zygote_clients),
    "forked": lambda pool: pool.connections,
    "serving": lambda pool: any(connection.served.is_set() for connection in pool.connections),
    "opening": lambda pool: any(connection.busy for connection in pool.connections),
}


async def starts(tally: Tally, seed: int, count: int) -> None:
    """Close, or give up, `count` starts, each in a pool of its own. Nothing may be left of any."""
    random = Random(seed)
    for _ in range(count):
        async with nothing_left() as seen:
            one = _OneStart(tally, random)
            with anyio.move_on_after(STUCK_SECONDS) as stuck:
                await one.whole()
            assert not stuck.cancelled_caught, f"stuck: {one.about}: {one.step}, told: {one.told}"
            seen.look()


class _OneStart:
    """Some callers whose sessions are being started, and one thing that happens meanwhile."""

    def __init__(self, tally: Tally, random: Random) -> None:
        self._tally, self._random = tally, random
        self._isolation = random.choice((*ISOLATIONS, "inline"))
        self._moment = random.choice(list(MOMENTS))
        self._closes = random.random() < 0.5
        self._strike: Strike | None = random.choice(_OF_ZYGOTES) if random.random() < 0.3 else None
        self._tenants = [f"tenant {random.randrange(3)}" for _ in range(random.randint(1, 6))]
        self._scopes = [anyio.CancelScope() for _ in self._tenants]
        self.told: list[str] = []
        self.step = "opening"
        what = "closed" if self._closes else "cancelled"
        struck = "" if self._strike is None else f" after {self._strike.name}"
        self.about = f"{what} when {self._moment}{struck}, {len(self._tenants)} in {self._isolation!r}"

    async def whole(self) -> None:
        """Let it happen, and see that everybody was told and the next one is served."""
        limits = pool_limits(
            "shared" if self._isolation == "inline" else self._isolation,  # type: ignore[arg-type]
            workers_max=WORKERS_MAX, zygotes_max=ZYGOTES_MAX, hang_ms_max=HANG_MS, heartbeat_ms=50,
        )  # fmt: skip
        worker: Worker = InlineWorker() if self._isolation == "inline" else WorkerPool(limits)
        async with anyio.create_task_group() as outside:
            outside.start_soon(watch_the_clock, self._tally)
            async with _processes_counted(self.about):
                async with worker:
                    for tenant, scope in zip(self._tenants, self._scopes, strict=True):
                        outside.start_soon(self._open, worker, tenant, scope)
                    await self._come(worker)
                    if self._strike is not None and isinstance(worker, WorkerPool):
                        self._strike.strike(worker, None)
                    began = time.monotonic()
                    if not self._closes:
                        self.step = "giving up"
                        await self._give_up(worker)
                        began = time.monotonic()
                    self.step = "closing"
                self.step = "closed"
                took = time.monotonic() - began
                assert took < TOLD_SECONDS_MAX + self._tally.stopped, (
                    f"{self.about}: closing took {took:.2f} s"
                )
                await until(lambda: len(self.told) == len(self._tenants), TOLD_SECONDS_MAX)
            outside.cancel_scope.cancel()
        self._judge(worker)

    async def _come(self, worker: Worker) -> None:
        """Wait until the start has come so far, or is over."""
        await anyio.lowlevel.checkpoint()
        if isinstance(worker, WorkerPool):
            await until(lambda: MOMENTS[self._moment](worker) or self.told, STUCK_SECONDS)
        for _ in range(self._random.randrange(4)):
            await anyio.lowlevel.checkpoint()

    async def _give_up(self, worker: Worker) -> None:
        """Have some callers give up; the others, and whoever comes next, are served."""
        given_up = [scope for scope in self._scopes if self._random.random() < 0.7] or self._scopes
        for scope in given_up:
            scope.cancel()
        await until(lambda: len(self.told) == len(self._tenants), STUCK_SECONDS)
        if isinstance(worker, WorkerPool):
            await until(lambda: worker.sessions == 0, TOLD_SECONDS_MAX)
        self.step = "the next one"
        for _ in range(3):  # a zygote that was struck is found at its next use
            outcome = await outcome_of(self._once(worker, "tenant 0"))
            if outcome == "None":
                break
        assert outcome == "None", f"{self.about}: the next session: {outcome}"

    async def _open(self, worker: Worker, tenant: str, scope: anyio.CancelScope) -> None:
        told = "cancelled"
        with scope:
            try:
                await self._once(worker, tenant)
                told = "served"
            except RlmWasmError as error:
                known = isinstance(error, (Overloaded, *LOST)) or "closed" in error.message
                told = type(error).__name__ if known else f"{type(error).__name__}: {error}"
        self.told.append(told)

    @staticmethod
    async def _once(worker: Worker, tenant: str) -> None:
        await (await worker.session(session_limits(), boundary_limits(), tenant=tenant)).aclose()

    def _judge(self, worker: Worker) -> None:
        what = "closed" if self._closes else "cancelled"
        self._tally.faults[f"a start: {what} when {self._moment}"] += 1
        for told in self.told:
            self._tally.outcomes[f"a start: {told}"] += 1
            assert ":" not in told, f"{self.about}: {told}"
            assert told != "cancelled" or not self._closes, self.about
            lost = told in {error.__name__ for error in LOST}
            assert not lost or self._closes or self._strike is not None, f"{self.about}: {told}"
        if isinstance(worker, WorkerPool):
            left = worker.metrics()
            assert left.workers == left.sessions == left.zygotes == 0, f"{self.about}: {left}"


@asynccontextmanager
async def _processes_counted(about: str) -> AsyncIterator[None]:
    """Fail if there are more zygotes or workers at any moment than the policy gives."""
    before = set(children_of(os.getpid()))

    async def watch() -> None:
        while True:
            zygotes = [pid for pid in children_of(os.getpid()) if pid not in before]
            inside = [pid for zygote in zygotes for pid in children_of(zygote)]
            workers = [pid for each in inside for pid in children_of(each) if running(pid)]
            assert len(zygotes) <= ZYGOTES_MAX, f"{about}: {len(zygotes)} zygotes"
            assert len(workers) <= WORKERS_MAX, f"{about}: {len(workers)} workers"
            await anyio.sleep(2 * _LOOK_SECONDS)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()
