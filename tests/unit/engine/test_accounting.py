"""What each tenant used: bounded, never going back, the same as ledgers and events say, and shown."""

from __future__ import annotations

import dataclasses
import os
import random
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rlm_wasm.api.prometheus import UsageCollector
from rlm_wasm.api.runtime import Runtime
from rlm_wasm.engine.accounting import Accounting, TenantUsage
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event
from rlm_wasm.results import CellResult
from rlm_wasm.tenant import TENANT_CHARS_MAX
from tests.support.core_facts import RUN
from tests.support.runtime_facts import Events, Script, running, small_policy, tree_model

SPENT = {
    "calls_spent": 3, "requests_spent": 4, "queries_denied": 2, "children_spent": 1,
    "input_tokens_spent": 5, "output_tokens_spent": 7, "cost_microdollars_spent": 11,
}  # fmt: skip


def ended() -> Event:
    return Event(1, RUN, 9, 9, 0, None, "run_ended", dict(SPENT))


def samples(accounting: Accounting) -> dict[tuple[str, str, str], float]:
    """Scrape and parse, as a server does."""
    registry = CollectorRegistry()
    registry.register(UsageCollector(accounting.metrics))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, sample.labels["tenant"], sample.labels["row"])
            assert key not in found
            found[key] = sample.value
    return found


@pytest.mark.threat("T-066")
def test_rows_are_bounded_never_go_back_and_add_up_to_all_there_was() -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chance = random.Random(seed)
    accounting = Accounting(tenants_max=5)
    total = TenantUsage()
    before = accounting.metrics()
    for _ in range(500):
        meter = accounting.meter(f"tenant {chance.randrange(40)}")
        fuel, ns, peak = (chance.randrange(1 << 40) for _ in range(3))
        meter.session_opened()
        meter.cell_ended(CellResult(fuel_used=fuel, executed_ns=ns, memory_peak_bytes=peak))
        meter.worker_ran(ns + 1)
        meter.take(ended())
        total = total.plus(
            TenantUsage(
                runs_ended=1, sessions=1, cells=1, calls=3, requests=4, requests_denied=2, children=1,
                input_tokens=5, output_tokens=7, cost_microdollars=11, fuel=fuel, executed_ns=ns,
                worker_cpu_ns=ns + 1, memory_peak_bytes=peak,
            )
        )  # fmt: skip
        now = accounting.metrics()
        assert len(now.tenants) <= 5
        assert set(before.tenants) <= set(now.tenants)
        pairs = [(usage, now.tenants[tenant]) for tenant, usage in before.tenants.items()]
        for old, new in [*pairs, (before.rest, now.rest)]:
            assert all(
                x <= y for x, y in zip(dataclasses.astuple(old), dataclasses.astuple(new), strict=True)
            )
        before = now
    assert before.total == total
    assert before.rest.cells > 0


def test_what_was_handed_out_does_not_change() -> None:
    accounting = Accounting()
    accounting.meter("a").session_opened()
    metrics = accounting.metrics()
    accounting.meter("a").session_opened()
    accounting.meter("b").session_opened()
    assert dict(metrics.tenants) == {"a": TenantUsage(sessions=1)}
    with pytest.raises(TypeError):
        metrics.tenants["a"] = TenantUsage()  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.rest = TenantUsage()  # type: ignore[misc]


def test_another_thread_may_read_while_tenants_come() -> None:
    accounting = Accounting(tenants_max=20_000)
    done = threading.Event()
    failures: list[Exception] = []

    def read() -> None:
        try:
            while not done.is_set():
                accounting.metrics()
        except Exception as error:  # noqa: BLE001 - told in the test
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20_000):
        accounting.meter(str(number)).session_opened()
    done.set()
    reader.join()
    assert failures == []


def test_prometheus_reads_every_counter_of_every_row() -> None:
    accounting = Accounting(tenants_max=3)
    for tenant in ("", 'a"b\\c\nd', "漢🙂", "late", "rest"):
        meter = accounting.meter(tenant)
        meter.run_refused()
        meter.session_opened()
        meter.cell_ended(CellResult(fuel_used=10, executed_ns=1_500_000_000, memory_peak_bytes=4096))
        meter.worker_ran(2_500_000_000)
        meter.take(Event(1, RUN, 0, 0, 0, None, "run_started", {}))
        meter.take(ended())
    found = samples(accounting)
    assert {(tenant, row) for _, tenant, row in found} == {
        ("", "tenant"), ('a"b\\c\nd', "tenant"), ("漢🙂", "tenant"), ("", "rest"),
    }  # fmt: skip
    assert {name: value for (name, tenant, row), value in found.items() if row == "rest"} == {
        "rlm_wasm_runs_started_total": 2,
        "rlm_wasm_runs_ended_total": 2,
        "rlm_wasm_runs_refused_total": 2,
        "rlm_wasm_sessions_total": 2,
        "rlm_wasm_cells_total": 2,
        "rlm_wasm_calls_total": 6,
        "rlm_wasm_requests_total": 8,
        "rlm_wasm_requests_denied_total": 4,
        "rlm_wasm_children_total": 2,
        "rlm_wasm_input_tokens_total": 10,
        "rlm_wasm_output_tokens_total": 14,
        "rlm_wasm_cost_dollars_total": 22 / 1e6,
        "rlm_wasm_fuel_total": 20,
        "rlm_wasm_executed_seconds_total": 3,
        "rlm_wasm_worker_cpu_seconds_total": 5,
        "rlm_wasm_memory_peak_bytes": 4096,
    }
    # A counter that is added later is shown too, or this fails.
    assert len({name for name, _, _ in found}) == len(dataclasses.fields(TenantUsage))


@pytest.mark.anyio
@pytest.mark.threat("T-066")
@pytest.mark.parametrize("tenant", ["x" * (TENANT_CHARS_MAX + 1), "\ud800", "a\udfff"])
async def test_a_tenants_name_that_no_export_can_hold_is_refused_and_has_no_row(
    tmp_path: Path, tenant: str
) -> None:
    model = Script(tmp_path).reply("root", "FINAL(1)").spec
    async with Runtime(small_policy(), model=model) as runtime:
        with pytest.raises(UsageError, match="tenant's name"):
            await runtime.ask("?", tenant=tenant)
        assert dict(runtime.metrics().tenants) == {}


@pytest.mark.guest
@pytest.mark.anyio
@pytest.mark.usefixtures("guest", "healthy_host")
async def test_what_runs_and_their_children_used_is_what_their_ledgers_and_events_say(tmp_path: Path) -> None:
    model = tree_model(
        tmp_path,
        tree="llm_query('x'); FINAL(rlm_query('leaf a') + rlm_query('leaf b'))",
        leaf="FINAL(sum(range(10**5)))",
    )
    policy = small_policy(run={"depth_max": 1})
    by_tenant: dict[str, list[Events]] = {"a": [Events(), Events()], "b": [Events()]}
    async with running(policy, model, sub_model=model) as runtime:
        for tenant, runs in by_tenant.items():
            for events in runs:
                result = await runtime.ask("tree ?", tenant=tenant, sinks=[events.append])
                assert not result.partial, result
                events.assert_complete()
    metrics = runtime.metrics()
    assert set(metrics.tenants) == {"a", "b"}
    for tenant, runs in by_tenant.items():
        used = metrics.tenants[tenant]
        assert {events.of(kind)[0]["tenant"] for events in runs for kind in ("run_started", "run_ended")} == {
            tenant
        }

        def added(kind: str, field: str, runs: list[Events] = runs) -> int:
            return sum(int(str(data[field])) for events in runs for data in events.of(kind))

        assert used.runs_started == used.runs_ended == len(runs)
        assert used.requests == added("run_ended", "requests_spent") == 6 * len(runs)
        assert used.children == added("run_ended", "children_spent") == 2 * len(runs)
        assert used.requests_denied == added("run_ended", "queries_denied") == 0
        assert used.worker_cpu_ns == 0
        assert used.calls == added("run_ended", "calls_spent") == 4 * len(runs)
        assert used.input_tokens == added("run_ended", "input_tokens_spent") > 0
        assert used.output_tokens == added("run_ended", "output_tokens_spent") > 0
        assert used.cost_microdollars == added("run_ended", "cost_microdollars_spent")
        assert used.fuel == added("run_ended", "fuel_spent") == added("session_ended", "fuel") > 0
        assert used.executed_ns == added("session_ended", "executed_ns") > 0
        assert used.cells == added("session_ended", "cells") == 3 * len(runs)
        assert used.sessions == sum(len(events.of("session_ended")) for events in runs) == 3 * len(runs)
        peaks = [data["memory_peak_bytes"] for events in runs for data in events.of("session_ended")]
        assert used.memory_peak_bytes == max(int(str(peak)) for peak in peaks) > 0
    assert metrics.total.cells == 9
    assert metrics.rest == TenantUsage()
    assert metrics.pool is None


@pytest.mark.guest
@pytest.mark.anyio
@pytest.mark.usefixtures("guest", "healthy_host")
async def test_a_run_that_is_cut_off_in_a_cell_is_counted_with_what_it_used(tmp_path: Path) -> None:
    policy = small_policy(cell={"fuel_max": 500_000_000}, budget={"fuel_max": 500_000_000})
    events = Events()
    model = Script(tmp_path).reply("root", "while True: pass").spec
    async with running(policy, model) as runtime:
        result = await runtime.ask("?", tenant="t", sinks=[events.append])
    used = runtime.metrics().tenants["t"]
    assert result.partial
    assert (used.runs_started, used.runs_ended, used.sessions) == (1, 1, 1)
    assert used.cells >= 1
    assert used.fuel == result.spent["fuel"] > 400_000_000
    assert len(events.of("session_ended")) == 1
    events.assert_complete()
