"""One measured figure, and how it is taken: medians of many, never a single run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns


@dataclass(frozen=True, slots=True)
class Measurement:
    """A figure with its unit, how many runs it is the median of, and what the reader should know."""

    name: str
    value: float
    unit: str
    n: int
    note: str


def median_ns(
    body: Callable[[], object], n: int, *, clean_up: Callable[[], object] | None = None
) -> tuple[float, float]:
    """Return median and 99th percentile of `n` runs of `body`, in nanoseconds.

    `clean_up` runs after each, when the clock has stopped.
    """
    times = []
    for _ in range(n):
        began = perf_counter_ns()
        body()
        times.append(perf_counter_ns() - began)
        if clean_up is not None:
            clean_up()
    times.sort()
    return statistics.median(times), times[min(n - 1, n * 99 // 100)]
