"""Fair queues for provider permits: one for each model, the tenants and runs that wait in it by virtual time.

A client's *virtual time* is the permits it has had, by its weight. It only grows, so an entry of a heap that
is out of date is found, and put right, when it comes to the top.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Final, TypeAlias

from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.adaptive import AdaptiveLimit

STRIDE: Final = 1 << 20  # what one permit counts for a tenant of weight 1


class Client:
    """A tenant, or a run among its tenant's. `virtual_time` is permits by weight; `turn` orders equals."""

    __slots__ = ("key", "lead", "stride", "turn", "virtual_time", "waiting")

    def __init__(self, weight: int) -> None:
        self.stride = max(1, STRIDE // weight)
        self.virtual_time = 0
        self.turn = 0
        self.key = (0, 0)
        self.lead = 0  # the virtual time of the last of its own clients to be served
        self.waiting = 0

    def begin_waiting(self, least: int, turn: int) -> None:
        """Join those who wait: nobody saves up turns while wanting nothing."""
        self.virtual_time = max(self.virtual_time, least)
        self.turn = turn
        self.key = (self.virtual_time, turn)

    def serve(self, turn: int) -> None:
        """Count one permit."""
        self.virtual_time += self.stride
        self.turn = turn
        self.key = (self.virtual_time, turn)


class TenantShare(Client):
    """Whoever the runs belong to."""

    __slots__ = ("held", "name", "parked", "permits_max", "runs")

    def __init__(self, name: str, permits_max: int) -> None:
        super().__init__(1)
        self.name: Final = name
        self.permits_max: Final = permits_max
        self.runs = 0
        self.held = 0
        self.parked: set[ModelQueue] = set()  # queues whose heaps left it out: it was at its share


class RunShare(Client):
    """One run's part of the pool."""

    __slots__ = (
        *(
            "entered",
            "held",
            "holding",
            "model_queues",
            "parked",
            "permits_max",
            "queues",
            "run_id",
            "tenant",
        ),
        "waiting_max",
    )

    def __init__(self, run_id: RunId, tenant: TenantShare, permits_max: int, waiting_max: int) -> None:
        super().__init__(1)
        self.run_id: Final = run_id
        self.tenant: Final = tenant
        self.permits_max: Final = permits_max
        self.waiting_max: Final = waiting_max
        self.held = 0
        self.holding: dict[RequestId, ModelQueue] = {}
        self.queues: dict[ModelQueue, dict[RequestId, int]] = {}  # who waits, with the number of its arrival
        self.model_queues: dict[RequestId, ModelQueue] = {}  # the queue of each that waits
        self.entered: set[ModelQueue] = set()  # queues whose heaps it is in
        self.parked: set[ModelQueue] = set()  # queues whose heaps left it out: it was at its share


class ProviderQueue:
    """What the models of one provider share."""

    __slots__ = ("held", "limit", "name")

    def __init__(self, name: str, limit: AdaptiveLimit) -> None:
        self.name: Final = name
        self.limit: Final = limit
        self.held = 0


Heap: TypeAlias = list[tuple[tuple[int, int], RunShare]]


class ModelQueue:
    """The requests that wait for one model."""

    __slots__ = ("held", "model_max", "provider", "runs", "tenants", "waiting")

    def __init__(self, provider: ProviderQueue, model_max: int) -> None:
        self.provider: Final = provider
        self.model_max: Final = model_max
        self.held = 0
        self.waiting = 0
        self.tenants: list[tuple[tuple[int, int], TenantShare]] = []
        self.runs: dict[TenantShare, Heap] = {}  # those in `tenants` or parked, and no other

    def enter(self, share: RunShare) -> None:
        """Put a run that waits here into the heaps, unless it is there, or parked."""
        if self in share.entered or self in share.parked:
            return
        share.entered.add(self)
        heap = self.runs.get(share.tenant)
        if heap is None:
            heap = self.runs[share.tenant] = []
            heappush(self.tenants, (share.tenant.key, share.tenant))
        heappush(heap, (share.key, share))

    def enter_again(self, tenant: TenantShare) -> None:
        """Put a tenant that was left out back into the heap."""
        heappush(self.tenants, (tenant.key, tenant))

    def first(self) -> RunShare | None:
        """Return the run whose turn it is, bringing the heaps up to date."""
        while self.tenants:
            key, tenant = self.tenants[0]
            if tenant.held >= tenant.permits_max:
                heappop(self.tenants)
                tenant.parked.add(self)
                continue
            if key != tenant.key:
                heapreplace(self.tenants, (tenant.key, tenant))
                continue
            share = self._first_of(self.runs[tenant])
            if share is not None:
                return share
            heappop(self.tenants)
            del self.runs[tenant]
        return None

    def _first_of(self, heap: Heap) -> RunShare | None:
        while heap:
            key, share = heap[0]
            if self not in share.queues:
                heappop(heap)  # nothing of it waits here any more
                share.entered.remove(self)
            elif share.held >= share.permits_max:
                heappop(heap)
                share.entered.remove(self)
                share.parked.add(self)
            elif key != share.key:
                heapreplace(heap, (share.key, share))
            else:
                return share
        return None
