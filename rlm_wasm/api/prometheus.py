"""A Prometheus collector over `Runtime.metrics()`: what each tenant has used, and how the pool stands.

Needs the extra ``rlm-wasm[metrics]``; nothing else imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, get_args

from rlm_wasm.engine.accounting import Metrics, TenantUsage
from rlm_wasm.host.pool_metrics import PoolMetrics, Refusal
from rlm_wasm.lockdown import LAYERS_OF, Grade

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("prometheus-client is not installed; install rlm-wasm[metrics]") from missing

# `row` keeps those without a row of their own apart from a tenant of any name, the empty one too.
_LABELS: Final = ("tenant", "row")
# Name without its suffix, what it counts, the field, and by how much it is divided.
_COUNTERS: Final = (
    ("rlm_wasm_runs_started", "Runs that began.", "runs_started", 1),
    ("rlm_wasm_runs_ended", "Runs that ended, however.", "runs_ended", 1),
    ("rlm_wasm_runs_refused", "Runs that did not begin: their tenant had its share.", "runs_refused", 1),
    ("rlm_wasm_sessions", "Sessions that were made.", "sessions", 1),
    ("rlm_wasm_cells", "Cells that ended, however.", "cells", 1),
    ("rlm_wasm_calls", "Model calls of runs that ended, retries included.", "calls", 1),
    ("rlm_wasm_requests", "Turns, queries and children of runs that ended, refused or not.", "requests", 1),
    ("rlm_wasm_requests_denied", "Requests of runs that ended that were refused.", "requests_denied", 1),
    ("rlm_wasm_children", "Child runs of runs that ended.", "children", 1),
    ("rlm_wasm_input_tokens", "Input tokens of runs that ended, as charged.", "input_tokens", 1),
    ("rlm_wasm_output_tokens", "Output tokens of runs that ended, as charged.", "output_tokens", 1),
    ("rlm_wasm_cost_dollars", "Cost of runs that ended, as charged.", "cost_microdollars", 1_000_000),
    ("rlm_wasm_fuel", "Fuel that cells used.", "fuel", 1),
    ("rlm_wasm_executed_seconds", "Wall time that guests ran, without their waits.", "executed_ns", 10**9),
    (
        "rlm_wasm_worker_cpu_seconds",
        "CPU time, user and kernel, of worker processes that served this tenant alone.",
        "worker_cpu_ns",
        10**9,
    ),
)
_POOL_GAUGES: Final = (
    ("rlm_wasm_pool_workers", "Worker processes that serve or are being made.", "workers", 1),
    ("rlm_wasm_pool_sessions", "Sessions that are open in them.", "sessions", 1),
    ("rlm_wasm_pool_zygotes", "Processes that workers are forked from.", "zygotes", 1),
    ("rlm_wasm_pool_memory_bytes", "Memory that is the workers' own, as last measured.", "memory_bytes", 1),
    (
        "rlm_wasm_pool_memory_pressure_ratio",
        "Part of ten seconds in which some task of the machine waited for memory.",
        "pressure_permille",
        1_000,
    ),
)
_POOL_COUNTERS: Final = (
    ("rlm_wasm_pool_workers_started", "Workers that were forked.", "workers_started", 1),
    (
        "rlm_wasm_pool_workers_lost",
        "Workers that died, hung, broke the protocol or held too much memory.",
        "workers_lost",
        1,
    ),
    ("rlm_wasm_pool_sessions_lost", "Sessions that were lost with them.", "sessions_lost", 1),
    ("rlm_wasm_pool_zygotes_started", "Zygotes that were started.", "zygotes_started", 1),
    ("rlm_wasm_pool_cpu_seconds", "CPU time, user and kernel, of all workers.", "cpu_ns", 10**9),
)


class UsageCollector(Collector):
    """Shows a runtime's counters: ``REGISTRY.register(UsageCollector(runtime.metrics))``.

    It asks for the counters at each scrape and keeps nothing. A scrape may come on any thread.
    """

    def __init__(self, metrics: Callable[[], Metrics]) -> None:
        self._metrics: Final = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield each counter with a sample for each tenant, then those of the pool, all of one moment."""
        metrics = self._metrics()
        rows: list[tuple[tuple[str, str], TenantUsage]] = [
            ((tenant, "tenant"), usage) for tenant, usage in metrics.tenants.items()
        ]
        rows.append((("", "rest"), metrics.rest))
        for name, meaning, field, divisor in _COUNTERS:
            counter = CounterMetricFamily(name, meaning, labels=_LABELS)
            for labels, usage in rows:
                counter.add_metric(labels, _scaled(getattr(usage, field), divisor))
            yield counter
        peak = GaugeMetricFamily(
            "rlm_wasm_memory_peak_bytes", "The most that one guest held after a cell.", labels=_LABELS
        )
        for labels, usage in rows:
            peak.add_metric(labels, usage.memory_peak_bytes)
        yield peak
        if metrics.pool is not None:
            yield from _pool_families(metrics.pool)


def _pool_families(pool: PoolMetrics) -> Iterator[Metric]:
    for name, meaning, field, divisor in _POOL_GAUGES:
        yield GaugeMetricFamily(name, meaning, value=_scaled(getattr(pool, field), divisor))
    for name, meaning, field, divisor in _POOL_COUNTERS:
        yield CounterMetricFamily(name, meaning, value=_scaled(getattr(pool, field), divisor))
    lockdown = GaugeMetricFamily(
        "rlm_wasm_pool_lockdown", "1 for what stands around the workers, by its word.", labels=("grade",)
    )
    for grade in LAYERS_OF:
        lockdown.add_metric((grade.value,), int(pool.lockdown == grade.value))
    lockdown.add_metric((Grade.PARTIAL.value,), int(pool.lockdown == Grade.PARTIAL.value))
    yield lockdown
    refusals = CounterMetricFamily(
        "rlm_wasm_pool_refusals", "Sessions that were refused.", labels=("reason",)
    )
    # All from the beginning: an alarm on an increase needs the sample before the first refusal.
    for reason in get_args(Refusal):
        refusals.add_metric((reason,), pool.refusals.get(reason, 0))
    yield refusals


def _scaled(value: int, divisor: int) -> float:
    return value if divisor == 1 else value / divisor
