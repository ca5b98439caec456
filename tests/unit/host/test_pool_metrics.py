"""What real workers used, for whom, by the kernel's word, and how their pool stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rlm_wasm.api.prometheus import UsageCollector
from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.engine.accounting import Metrics
from rlm_wasm.errors import Overloaded, UsageError
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.process_handle import ProcessHandle
from tests.support.pool_facts import pool, until
from tests.support.runtime_facts import Events, Script, small_policy
from tests.support.sandbox_facts import boundary_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

MS = 1_000_000
# Some 50 ms of a guest's time.
WORK = "sum(i * i for i in range(400_000))"


def process_policy(isolation: str, **sections: Any) -> Any:
    sandbox = {"isolation": isolation} | sections.pop("sandbox", {})
    return small_policy(sandbox=sandbox, **sections)


def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Scrape and parse, as a server does: by name, and by tenant or reason where there is one."""
    registry = CollectorRegistry()
    registry.register(UsageCollector(lambda: metrics))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if sample.labels.get("row") != "rest":
                labels = [sample.labels[key] for key in ("tenant", "reason") if key in sample.labels]
                found[sample.name, *labels] = sample.value
    return found


def of_pool(sandbox: Sandbox | Runtime) -> WorkerPool:
    assert isinstance(sandbox._worker, WorkerPool)
    return sandbox._worker


def consistent(metrics: Metrics) -> Metrics:
    """What tenants are charged with is of what the workers used, and nothing else."""
    assert metrics.pool is not None
    assert metrics.total.worker_cpu_ns <= metrics.pool.cpu_ns
    return metrics


@pytest.mark.parametrize("isolation", ["session", "tenant"])
async def test_each_tenant_is_charged_the_cpu_time_of_its_own_processes(isolation: str) -> None:
    async with Sandbox(process_policy(isolation)) as sandbox:
        for tenant, cells in (("a", 4), ("b", 1)):
            async with await sandbox.session(tenant=tenant) as session:
                for _ in range(cells):
                    assert (await session.exec(WORK)).outcome == "completed"
    metrics = consistent(sandbox.metrics())
    a, b = metrics.tenants["a"], metrics.tenants["b"]
    assert metrics.pool is not None
    # Ended in order, each was measured before: nothing is missing, and nothing is told twice.
    assert a.worker_cpu_ns + b.worker_cpu_ns == metrics.pool.cpu_ns
    assert (a.sessions, a.cells, b.sessions, b.cells) == (1, 4, 1, 1)
    # A guest's wall time holds its CPU time; its process used more for what is around it.
    assert a.fuel == pytest.approx(4 * b.fuel, rel=0.1)
    # A thread that has just begun on a busy machine costs more a unit of fuel: no ratio of times is asserted.
    assert a.worker_cpu_ns > b.worker_cpu_ns > 10 * MS
    found = scraped(metrics)
    for tenant, used in metrics.tenants.items():
        assert found["rlm_wasm_worker_cpu_seconds_total", tenant] == used.worker_cpu_ns / 1e9
        assert found["rlm_wasm_executed_seconds_total", tenant] == used.executed_ns / 1e9
        assert found["rlm_wasm_fuel_total", tenant] == used.fuel


async def test_a_process_of_many_tenants_is_charged_to_none_and_to_the_pool() -> None:
    async with Sandbox(process_policy("shared")) as sandbox:
        for tenant in ("a", "b"):
            async with await sandbox.session(tenant=tenant) as session:
                await session.exec(WORK)
    metrics = sandbox.metrics()
    assert metrics.pool is not None
    assert metrics.pool.cpu_ns > 20 * MS
    assert metrics.total.worker_cpu_ns == 0
    assert all(used.executed_ns > 20 * MS for used in metrics.tenants.values())


async def test_cpu_time_is_measured_while_a_worker_lives_and_never_goes_back() -> None:
    charged: list[tuple[str, int]] = []
    async with pool("tenant") as made:
        made._charge = lambda tenant, ns: charged.append((tenant, ns))  # type: ignore[misc]
        async with await made.session(session_limits(), boundary_limits(), tenant="t"):
            await until(lambda: charged)  # it locked itself down and made a guest
            (connection,) = made.connections
            used = connection.child.cpu_ns()
            assert used is not None
            # The kernel's other account of the same time, in ticks of 10 ms.
            assert connection.child.cpu_ms() == pytest.approx(used / MS, abs=20)
            assert {tenant for tenant, _ in charged} == {"t"}
            assert 0 < sum(ns for _, ns in charged) == made.metrics().cpu_ns <= used
    assert all(ns > 0 for _, ns in charged)
    assert sum(ns for _, ns in charged) == made.metrics().cpu_ns >= used


def test_a_process_that_is_gone_has_no_cpu_time_rather_than_another_ones() -> None:
    # Not a fork: other tests of this process may have left threads in it.
    process = subprocess.Popen(["true"])
    gone, pidfd = process.pid, os.pidfd_open(process.pid)
    try:
        process.wait()
        # As if the number were another process's by now: this one's.
        assert ProcessHandle(os.getpid(), pidfd, None).cpu_ns() is None  # type: ignore[arg-type]
        assert ProcessHandle(gone, pidfd, None).cpu_ns() is None  # type: ignore[arg-type]
    finally:
        os.close(pidfd)


async def test_the_page_names_every_metric_and_reason_and_no_other() -> None:
    async with Sandbox(process_policy("session")) as sandbox:
        async with await sandbox.session(tenant="a"):
            found = scraped(sandbox.metrics())
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(rlm_wasm_\w+)`", page)) == {name for name, *_ in found}
    reasons = {labels[0] for name, *labels in found if name == "rlm_wasm_pool_refusals_total"}
    assert all(f"`{reason}`" in page for reason in reasons)


async def test_the_pool_tells_what_there_is_and_what_was_refused() -> None:
    workers = {"workers_max": 2, "sessions_max": 2, "zygotes_max": 2}
    async with Sandbox(process_policy("session", workers=workers)) as sandbox:
        assert scraped(sandbox.metrics())["rlm_wasm_pool_refusals_total", "sessions"] == 0
        async with await sandbox.session(tenant="a"), await sandbox.session(tenant="b"):
            with pytest.raises(Overloaded):
                await sandbox.session(tenant="a")
            of_pool(sandbox)._placement.pressure(1_001)
            found = scraped(consistent(sandbox.metrics()))
            assert found["rlm_wasm_pool_workers",] == found["rlm_wasm_pool_sessions",] == 2
            assert found["rlm_wasm_pool_zygotes",] == found["rlm_wasm_pool_zygotes_started_total",] == 2
            assert found["rlm_wasm_pool_memory_pressure_ratio",] == 1.001
            await until(lambda: scraped(sandbox.metrics())["rlm_wasm_pool_memory_bytes",] > 1 << 20)
        await until(lambda: of_pool(sandbox).sessions == 0)
        of_pool(sandbox)._placement.pressure(1_001)
        with pytest.raises(Overloaded, match="short of memory"):
            await sandbox.session()
    metrics = consistent(sandbox.metrics())
    found = scraped(metrics)
    assert {key[1]: value for key, value in found.items() if key[0] == "rlm_wasm_pool_refusals_total"} == {
        "workers": 0, "zygotes": 0, "sessions": 1, "memory": 0, "pressure": 1, "closing": 0,
        "tenant_sessions": 0, "tenant_workers": 0, "tenant_memory": 0,
    }  # fmt: skip
    assert found["rlm_wasm_pool_workers",] == found["rlm_wasm_pool_sessions",] == 0
    assert found["rlm_wasm_pool_zygotes",] == 0
    assert found["rlm_wasm_pool_workers_started_total",] == 2
    assert found["rlm_wasm_pool_workers_lost_total",] == found["rlm_wasm_pool_sessions_lost_total",] == 0
    assert metrics.pool is not None
    with pytest.raises(TypeError):
        metrics.pool.refusals["workers"] = 9  # type: ignore[index]


@pytest.mark.threat("T-115")
@pytest.mark.parametrize("isolation", ["session", "tenant", "shared"])
async def test_one_tenant_that_takes_all_it_gets_leaves_another_a_session(isolation: str) -> None:
    workers = {"workers_max": 4, "sessions_max": 4}
    policy = process_policy(isolation, workers=workers, tenants={"share_percent": 75})
    async with Sandbox(policy) as sandbox, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(await sandbox.session(tenant="greedy"))
        with pytest.raises(Overloaded, match="this tenant has 3 sessions, all that one tenant may have"):
            await sandbox.session(tenant="greedy")
        async with await sandbox.session(tenant="modest") as session:
            assert (await session.exec("6 * 7")).result == "42"
        found = scraped(sandbox.metrics())
        assert found["rlm_wasm_pool_refusals_total", "tenant_sessions"] == 1


async def test_a_worker_that_dies_is_counted_with_the_sessions_that_it_takes_along() -> None:
    async with Sandbox(process_policy("tenant")) as sandbox:
        one = await sandbox.session(tenant="a")
        await one.exec(WORK)
        (connection,) = of_pool(sandbox).connections
        os.kill(connection.child.pid, signal.SIGKILL)
        assert (await one.exec("1")).outcome == "worker_lost"
        await one.aclose()
        metrics = consistent(sandbox.metrics())
        assert metrics.pool is not None
        assert (metrics.pool.workers_lost, metrics.pool.sessions_lost) == (1, 1)
        async with await sandbox.session(tenant="a") as two:
            assert (await two.exec("1")).outcome == "completed"
    metrics = consistent(sandbox.metrics())
    assert metrics.pool is not None
    assert (metrics.pool.workers_started, metrics.pool.workers_lost) == (2, 1)
    # The cell that found its worker gone was one too.
    assert (metrics.tenants["a"].sessions, metrics.tenants["a"].cells) == (2, 3)


async def test_a_cell_that_did_not_begin_is_not_counted_again() -> None:
    async with Sandbox(process_policy("session")) as sandbox, await sandbox.session(tenant="a") as session:
        await session.exec("1")
        before = sandbox.metrics().tenants["a"]
        with pytest.raises(UsageError):
            await session.exec("#" * 10_000_000)
        assert sandbox.metrics().tenants["a"].cells == before.cells == 1
        with pytest.raises(UsageError, match="tenant's name"):
            await sandbox.session(tenant="x" * 257)
        assert set(sandbox.metrics().tenants) == {"a"}


async def test_runs_of_two_tenants_are_charged_for_their_processes(tmp_path: Path) -> None:
    model = Script(tmp_path).reply("root", f"FINAL({WORK})").spec
    events = Events()
    async with Runtime(process_policy("session"), model=model) as runtime:
        for tenant in ("a", "b", "b"):
            assert not (await runtime.ask("?", tenant=tenant, sinks=[events.append])).partial
    told = [ended["worker_cpu_ns"] for ended in events.of("session_ended")]
    assert all(isinstance(ns, int) and ns > 10 * MS for ns in told)
    metrics = consistent(runtime.metrics())
    assert metrics.pool is not None
    a, b = metrics.tenants["a"].worker_cpu_ns, metrics.tenants["b"].worker_cpu_ns
    assert a + b == metrics.pool.cpu_ns
    assert b > a > 10 * MS
    # The events tell it when the session ends; its process uses a little more until it is ended itself.
    assert 0 <= a + b - sum(ns for ns in told if isinstance(ns, int)) < 10 * MS
    assert metrics.pool.workers_started == 3
