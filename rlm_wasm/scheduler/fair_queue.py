"""Who waits for which model, in what order: the books that the permit pool keeps.

A waiting request stands in the *lane* of its model. A lane keeps heaps of tenants and runs by what
they had. That only grows, so an entry that is out of date is found, and put right, when it comes to
the top.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Final, TypeAlias

from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.scheduler.adaptive import AdaptiveLimit

STRIDE: Final = 1 << 20  # what one permit counts for a tenant of weight 1


class Party:
    """A tenant, or a run among its tenant's. `had` is permits by weight; `turn` orders equals."""

    __slots__ = ("had", "key", "lead", "stride", "turn", "waiting")

    def __init__(self, weight: int) -> None:
        self.stride = max(1, STRIDE // weight)
        self.had = 0
        self.turn = 0
        self.key = (0, 0)
        self.lead = 0  # what the last of its own parts to be served had had
        self.waiting = 0

    def begin_waiting(self, least: int, turn: int) -> None:
        """Join those who wait: nobody saves up turns while wanting nothing."""
        self.had = max(self.had, least)
        self.turn = turn
        self.key = (self.had, turn)

    def serve(self, turn: int) -> None:
        """Count one permit."""
        self.had += self.stride
        self.turn = turn
        self.key = (self.had, turn)


class Tenant(Party):
    """Whoever the runs belong to."""

    __slots__ = ("held", "name", "parked", "permits_max", "runs")

    def __init__(self, name: str, permits_max: int) -> None:
        super().__init__(1)
        self.name: Final = name
        self.permits_max: Final = permits_max
        self.runs = 0
        self.held = 0
        self.parked: set[Lane] = set()  # lanes whose heaps left it out because it was at its share


class Share(Party):
    """One run's part of the pool."""

    __slots__ = (
        *("entered", "held", "holding", "lanes", "parked", "permits_max", "queues", "run_id", "tenant"),
        "waiting_max",
    )

    def __init__(self, run_id: RunId, tenant: Tenant, permits_max: int, waiting_max: int) -> None:
        super().__init__(1)
        self.run_id: Final = run_id
        self.tenant: Final = tenant
        self.permits_max: Final = permits_max
        self.waiting_max: Final = waiting_max
        self.held = 0
        self.holding: dict[RequestId, Lane] = {}
        self.queues: dict[Lane, dict[RequestId, int]] = {}  # who waits, with the number of its arrival
        self.lanes: dict[RequestId, Lane] = {}  # the lane of each that waits
        self.entered: set[Lane] = set()  # lanes whose heaps it is in
        self.parked: set[Lane] = set()  # lanes whose heaps left it out because it was at its share


class Provider:
    """What the models of one provider share."""

    __slots__ = ("held", "limit", "name")

    def __init__(self, name: str, limit: AdaptiveLimit) -> None:
        self.name: Final = name
        self.limit: Final = limit
        self.held = 0


Heap: TypeAlias = list[tuple[tuple[int, int], Share]]


class Lane:
    """The requests that wait for one model."""

    __slots__ = ("held", "model_max", "provider", "runs", "tenants", "waiting")

    def __init__(self, provider: Provider, model_max: int) -> None:
        self.provider: Final = provider
        self.model_max: Final = model_max
        self.held = 0
        self.waiting = 0
        self.tenants: list[tuple[tuple[int, int], Tenant]] = []
        self.runs: dict[Tenant, Heap] = {}  # those in `tenants` or parked, and no other

    def enter(self, share: Share) -> None:
        """Put a run that waits here into the heaps, unless it is there, or parked."""
        if self in share.entered or self in share.parked:
            return
        share.entered.add(self)
        heap = self.runs.get(share.tenant)
        if heap is None:
            heap = self.runs[share.tenant] = []
            heappush(self.tenants, (share.tenant.key, share.tenant))
        heappush(heap, (share.key, share))

    def enter_again(self, tenant: Tenant) -> None:
        """Put a tenant that was left out back into the heap."""
        heappush(self.tenants, (tenant.key, tenant))

    def first(self) -> Share | None:
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

    def _first_of(self, heap: Heap) -> Share | None:
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
