"""The usage counters of each tenant: they only grow, for a bounded number of tenants.

Pure but for the counting itself: no clock, no I/O. The first tenants that come get a row each; what all
later ones use is counted together. So no row ever goes back, and together they are all there was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final

from rlm_wasm.errors import InternalError
from rlm_wasm.events import Event
from rlm_wasm.host.pool_metrics import PoolMetrics
from rlm_wasm.host.worker import WorkerSession
from rlm_wasm.results import CellResult

# How many tenants have a row of their own; the others share one. A row takes about 500 bytes.
TENANTS_MAX: Final = 1_000
# The fields that the last event of a run has, and what it calls them.
_BILLED: Final = {
    "calls": "calls_spent",
    "requests": "requests_spent",
    "requests_denied": "queries_denied",
    "children": "children_spent",
    "input_tokens": "input_tokens_spent",
    "output_tokens": "output_tokens_spent",
    "cost_microdollars": "cost_microdollars_spent",
}


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What one tenant has used since the runtime was made. Nothing in it ever gets smaller.

    A run's calls, requests, children, tokens and cost are those of its ledger, counted when it ends.
    `requests` are all that was asked for, turns of the loop, queries and children, those included that
    are among the `requests_denied`; `calls` are what went to models, retries included. Sessions and
    cells are counted as they come, those of children too. `memory_peak_bytes` is the most that one
    guest held after a cell.

    Two fields are about processor time. `executed_ns` is how long guests ran, by the clock on the wall,
    without their waits: known for every isolation, and longer than CPU time where the machine has
    fewer cores than work. `worker_cpu_ns` is the CPU time, of user and kernel, of the worker processes
    that served this tenant alone, for all that they did: locking themselves down, copying pages,
    passing on frames, running guests. It is 0 under `isolation = "shared"` and `"inline"`, where a
    process serves everybody; `PoolMetrics.cpu_ns` says how it is measured.
    """

    runs_started: int = 0
    runs_ended: int = 0
    runs_refused: int = 0
    sessions: int = 0
    cells: int = 0
    calls: int = 0
    requests: int = 0
    requests_denied: int = 0
    children: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microdollars: int = 0
    fuel: int = 0
    executed_ns: int = 0
    worker_cpu_ns: int = 0
    memory_peak_bytes: int = 0

    def plus(self, other: TenantUsage) -> TenantUsage:
        """Return what both used together; of the peaks the higher one."""
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        sums["memory_peak_bytes"] = max(self.memory_peak_bytes, other.memory_peak_bytes)
        return TenantUsage(**sums)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a runtime or sandbox has counted, at one moment.

    `rest` is what all tenants without a row used together. `pool` is None where no worker processes are
    used, or those of a worker that the caller brought.
    """

    tenants: Mapping[str, TenantUsage]
    rest: TenantUsage
    pool: PoolMetrics | None = None

    @property
    def total(self) -> TenantUsage:
        """What all tenants used together."""
        total = self.rest
        for usage in self.tenants.values():
            total = total.plus(usage)
        return total


class Meter:
    """Counts for one row. `usage` is replaced, never changed: any thread may read it at any time."""

    __slots__ = ("usage",)

    def __init__(self) -> None:
        self.usage = TenantUsage()

    def take(self, event: Event) -> None:
        """Count a run that begins, and what its ledger says of queries when it ends. A sink of its events."""
        if event.kind == "run_started":
            self.usage = self.usage.plus(TenantUsage(runs_started=1))
        elif event.kind == "run_ended":
            # The one account that is final: what is open until then is settled by it.
            spent = {field: _spent(event, name) for field, name in _BILLED.items()}
            self.usage = self.usage.plus(TenantUsage(runs_ended=1, **spent))

    def run_refused(self) -> None:
        """Count a run that did not begin: its tenant has all that it may have."""
        self.usage = replace(self.usage, runs_refused=self.usage.runs_refused + 1)

    def session_opened(self) -> None:
        """Count a session that was made."""
        self.usage = replace(self.usage, sessions=self.usage.sessions + 1)

    def cell_ended(self, ended: CellResult) -> None:
        """Count a cell and what it used."""
        cell = TenantUsage(
            cells=1,
            fuel=ended.fuel_used,
            executed_ns=ended.executed_ns,
            memory_peak_bytes=ended.memory_peak_bytes,
        )
        self.usage = self.usage.plus(cell)

    @contextmanager
    def cell_of(self, session: WorkerSession) -> Iterator[None]:
        """Count the cell that is run within, also one that is cancelled: it has used what it has used."""
        before = session.last_result
        try:
            yield
        finally:
            ended = session.last_result
            if ended is not None and ended is not before:  # else none began
                self.cell_ended(ended)

    def worker_ran(self, cpu_ns: int) -> None:
        """Count CPU time of a process that serves this row's tenants alone."""
        self.usage = replace(self.usage, worker_cpu_ns=self.usage.worker_cpu_ns + cpu_ns)


def _spent(event: Event, name: str) -> int:
    value = event.data[name]
    if not isinstance(value, int):
        raise InternalError(f"{name} of an account is no int")
    return value


class Accounting:
    """The rows of all tenants."""

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max: Final = tenants_max
        self._meters: dict[str, Meter] = {}
        self._rest: Final = Meter()
        self._pool: Callable[[], PoolMetrics] | None = None

    def meter(self, tenant: str) -> Meter:
        """Return the row of a tenant: its own, or the one that all who came too late share."""
        meter = self._meters.get(tenant)
        if meter is None:
            if len(self._meters) >= self._tenants_max:
                return self._rest
            meter = self._meters[tenant] = Meter()
        return meter

    def watch(self, pool: Callable[[], PoolMetrics]) -> None:
        """Have the figures of a pool with those of the tenants from now on."""
        self._pool = pool

    def metrics(self) -> Metrics:
        """Return what there is now. Any thread may ask: a copy is taken before anything is read."""
        meters = self._meters.copy()
        rows = {tenant: meter.usage for tenant, meter in meters.items()}
        pool = None if self._pool is None else self._pool()
        return Metrics(MappingProxyType(rows), self._rest.usage, pool)
