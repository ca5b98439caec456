"""A pool holds as many sessions as it says, and endless ones take no more than their share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlm_wasm.bench.pool_bench import PoolBench
from rlm_wasm.policy.model import Policy
from rlm_wasm.vm.loaded_guest import LoadedGuest


def available_bytes() -> int:
    """Return what the kernel could give: free memory, and what its caches would make room for."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found[1]) << 10 if found else 0


def figures(*, quick: bool) -> dict[str, float]:
    """Take all measurements of one pool: sessions that starve, end or give another result are an error."""
    bench = PoolBench(Policy.builtin("standard"), quick=quick)
    return {name: take().value for name, take in bench.measurements().items()}


@pytest.mark.guest
@pytest.mark.threat("T-068")
def test_endless_neighbours_in_every_worker_starve_nobody(guest: LoadedGuest, healthy_host: None) -> None:
    taken = figures(quick=True)
    # In turns, a slice of fuel each: whoever came first is a few slices ahead of hundreds at most.
    assert 1 <= taken["pool_spread_x"] < 1.5


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.threat("T-068")
@pytest.mark.skipif(available_bytes() < 4 << 30, reason="needs 4 GiB of memory")
def test_two_thousand_sessions_live_in_eight_locked_workers(guest: LoadedGuest, healthy_host: None) -> None:
    bench = PoolBench(Policy.builtin("standard"), quick=False)
    took = {name: take() for name, take in bench.measurements().items()}
    assert took["pool_2000_s"].n == took["pool_crowd_s"].n == 2_000
    assert 1 <= took["pool_spread_x"].value < 1.5
