"""A pool of real worker processes with small limits, and a look at the processes it leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from rlm_wasm.host.placement import Isolation
from rlm_wasm.host.pool import PoolLimits, WorkerPool
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.limits import NO_TENANT_LIMITS, WorkerLimits
from tests.support.sandbox_facts import MIB, boundary_limits, cell_limits, session_limits


def worker_limits(**over: int) -> WorkerLimits:
    base = WorkerLimits(
        workers_max=8,
        zygotes_max=4,
        sessions_max=4_000,
        sessions_per_worker_max=500,
        worker_age_ms_max=3_600_000,
        worker_sessions_total_max=100_000,
        worker_memory_bytes_max=2_048 * MIB,
        worker_cpu_seconds_max=3_600,
        memory_bytes_max=8_192 * MIB,
        pressure_permille_max=500,
        heartbeat_ms=100,
        hang_ms_max=500,
        unsent_bytes_max=64 * MIB,
    )
    return replace(base, **over)


def pool_limits(
    isolation: Isolation = "shared",
    *,
    layers: tuple[str, ...] = (),
    session: dict[str, Any] | None = None,
    boundary: dict[str, int] | None = None,
    tenants: dict[str, int] | None = None,
    **workers: int,
) -> PoolLimits:
    return PoolLimits(
        isolation=isolation,
        tenants=replace(NO_TENANT_LIMITS, **(tenants or {})),
        workers=worker_limits(**workers),
        session=session_limits(**(session or {})),
        cell=cell_limits(),
        boundary=boundary_limits(**(boundary or {})),
        required_layers=layers,
    )


@asynccontextmanager
async def pool(isolation: Isolation = "shared", **more: Any) -> AsyncIterator[WorkerPool]:
    async with WorkerPool(pool_limits(isolation, **more)) as made:
        yield made


def alive(child: ProcessHandle) -> bool:
    """Whether the process is there, as a zombie too."""
    return Path(f"/proc/{child.pid}").exists()


def running(pid: int) -> bool:
    """Whether the process has not ended: a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], object], seconds_max: float = 60) -> None:
    """Wait for what another process does."""
    with anyio.fail_after(seconds_max):
        while not condition():  # noqa: ASYNC110 - the kernel sets no event of ours
            await anyio.sleep(0.0005)
