"""What each tenant has used, for Prometheus: a collector over `Runtime.metrics()`.

Needs the extra ``rlm-wasm[metrics]``; nothing else imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rlm_wasm.runtime.accounting import Metrics, TenantUsage

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
    ("rlm_wasm_sessions", "Sessions that were made.", "sessions", 1),
    ("rlm_wasm_cells", "Cells that ended, however.", "cells", 1),
    ("rlm_wasm_calls", "Model calls of runs that ended, retries included.", "calls", 1),
    ("rlm_wasm_input_tokens", "Input tokens of runs that ended, as charged.", "input_tokens", 1),
    ("rlm_wasm_output_tokens", "Output tokens of runs that ended, as charged.", "output_tokens", 1),
    ("rlm_wasm_cost_dollars", "Cost of runs that ended, as charged.", "cost_microdollars", 1_000_000),
    ("rlm_wasm_fuel", "Fuel that cells used.", "fuel", 1),
    ("rlm_wasm_executed_seconds", "Time that guests ran, without their waits.", "executed_ns", 10**9),
)


class UsageCollector(Collector):
    """Shows a runtime's counters: ``REGISTRY.register(UsageCollector(runtime.metrics))``.

    It asks for the counters at each scrape and keeps nothing. A scrape may come on any thread.
    """

    def __init__(self, metrics: Callable[[], Metrics]) -> None:
        self._metrics: Final = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield each counter with a sample for each tenant, all of one moment."""
        metrics = self._metrics()
        rows: list[tuple[tuple[str, str], TenantUsage]] = [
            ((tenant, "tenant"), usage) for tenant, usage in metrics.tenants.items()
        ]
        rows.append((("", "rest"), metrics.rest))
        for name, meaning, field, divisor in _COUNTERS:
            counter = CounterMetricFamily(name, meaning, labels=_LABELS)
            for labels, usage in rows:
                value = getattr(usage, field)
                counter.add_metric(labels, value if divisor == 1 else value / divisor)
            yield counter
        peak = GaugeMetricFamily(
            "rlm_wasm_memory_peak_bytes", "The most that one guest held after a cell.", labels=_LABELS
        )
        for labels, usage in rows:
            peak.add_metric(labels, usage.memory_peak_bytes)
        yield peak
