"""One pool of slots for provider I/O, over all runs: who waits, who is next, which caps hold.

Who is next is decided by three keys in turn: the tenant with the least virtual time, of its runs
the one with the least, of that run's requests the first that asked. A request whose model or
provider is at its cap, or whose run or tenant is at its share, is passed over, not waited for.
A grant costs the logarithm of the tenants and runs that wait, and the number of models.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.scheduler.adaptive import AdaptiveLimit
from rlm_wasm.scheduler.fair_queue import STRIDE, ModelQueue, ProviderQueue, RunShare, TenantShare

Slot: TypeAlias = tuple[RunId, RequestId]


class Permits:
    """At most `total_max` requests hold a permit at once, of each tenant, run, model and provider fewer.

    After `hand_out` no permit is idle that any waiting request may have.
    """

    def __init__(self, limits: PermitLimits) -> None:
        least = min(limits.total_max, limits.tenant_max, limits.provider_max, limits.model_max)
        if min(least, limits.adaptive_min) < 1:
            raise InternalError("a pool without permits")
        self._limits: Final = limits
        self._held = 0
        self._waiting = 0
        # The only one that waits, if there is but one: it needs no heap. Most permits are granted so.
        self._lone: tuple[RunShare, ModelQueue, RequestId] | None = None
        self._turns = 0
        self._lead = 0  # the virtual time of the last tenant to be served
        self._tenants: dict[str, TenantShare] = {}
        self._shares: dict[RunId, RunShare] = {}
        self._model_queues: dict[str, ModelQueue] = {}
        self._providers: dict[str, ProviderQueue] = {}

    @property
    def held(self) -> int:
        """How many permits are out."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many requests wait, over all runs."""
        return self._waiting

    def held_by(self, run_id: RunId) -> int:
        """Return how many permits a run holds; a run that is not here holds none."""
        share = self._shares.get(run_id)
        return share.held if share else 0

    def waiting_of(self, run_id: RunId) -> int:
        """Return how many requests of a run wait."""
        share = self._shares.get(run_id)
        return share.waiting if share else 0

    def provider_permits(self, provider: str, now_ns: int) -> int:
        """Return how many permits a provider may have now."""
        found = self._providers.get(provider)
        return found.limit.permits(now_ns) if found else self._limits.provider_max

    def add_run(
        self, run_id: RunId, *, permits_max: int, waiting_max: int, tenant: str = "", weight: int = 1
    ) -> None:
        """Let a run take part, with its own bounds. `weight` is its tenant's, from now on."""
        if run_id in self._shares:
            raise InternalError(f"{run_id} takes part already")
        if permits_max < 1 or weight < 1:
            raise InternalError(f"a share of {permits_max} permits with weight {weight}")
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = TenantShare(tenant, self._limits.tenant_max)
        owner.stride = max(1, STRIDE // weight)
        owner.runs += 1
        self._shares[run_id] = RunShare(run_id, owner, permits_max, waiting_max)

    def remove_run(self, run_id: RunId) -> None:
        """Forget a run. It must hold and want nothing: a leak is our bug and must not pass silently."""
        share = self._share(run_id)
        if share.held or share.waiting:
            raise InternalError(f"{run_id} left with {share.held} permits and {share.waiting} waiting")
        del self._shares[run_id]
        share.tenant.runs -= 1
        if not share.tenant.runs:
            del self._tenants[share.tenant.name]

    def request(self, run_id: RunId, request_id: RequestId, model: str) -> None:
        """Queue for a permit, which the next `hand_out` may grant."""
        share = self._share(run_id)
        if request_id in share.holding or request_id in share.model_queues:
            raise InternalError(f"request {request_id} of {run_id} asked for a second permit")
        if share.waiting >= share.waiting_max:
            raise InternalError(f"more than {share.waiting_max} requests of {run_id} wait for a permit")
        model_queue = self._model_queues.get(model) or self._new_model_queue(model)
        self._turns += 1
        if not share.tenant.waiting:
            share.tenant.begin_waiting(self._lead, self._turns)
        if not share.waiting:
            share.begin_waiting(share.tenant.lead, self._turns)
        queue = share.queues.get(model_queue)
        if queue is None:
            queue = share.queues[model_queue] = {}
        queue[request_id] = self._turns
        share.model_queues[request_id] = model_queue
        if not self._waiting:
            self._lone = (share, model_queue, request_id)
        else:
            self._enter_lone()
            model_queue.enter(share)
        self._count_waiting(share, model_queue, 1)

    def release(self, run_id: RunId, request_id: RequestId) -> None:
        """Give a permit back."""
        share = self._share(run_id)
        model_queue = share.holding.pop(request_id, None)
        if model_queue is None:
            raise InternalError(f"request {request_id} of {run_id} holds no permit")
        self._count_held(share, model_queue, -1)
        tenant = share.tenant
        if tenant.parked:
            model_queues, tenant.parked = tenant.parked, set()
            for each in model_queues:
                each.enter_again(tenant)
        if share.parked:
            parked, share.parked = share.parked, set()
            for each in parked:
                each.enter(share)

    def withdraw(self, run_id: RunId, request_id: RequestId) -> None:
        """Take a waiting request out of the queue."""
        share = self._share(run_id)
        model_queue = share.model_queues.get(request_id)
        if model_queue is None:
            raise InternalError(f"request {request_id} of {run_id} is not waiting")
        if self._lone is not None:
            self._lone = None
        self._leave_queue(share, model_queue, request_id)

    def hand_out(self, now_ns: int) -> list[Slot]:
        """Grant every permit that can be granted now, and return to whom, in order."""
        granted: list[Slot] = []
        if self._lone is not None:
            share, model_queue, request_id = self._lone
            tenant = share.tenant
            own = share.held < share.permits_max and tenant.held < tenant.permits_max
            if own and self._held < self._limits.total_max and self._has_room(model_queue, now_ns):
                self._lone = None
                granted.append(self._grant(share, model_queue, request_id))
            return granted
        while self._waiting and self._held < self._limits.total_max:
            found = self._next(now_ns)
            if found is None:
                break
            share, model_queue = found
            granted.append(self._grant(share, model_queue, next(iter(share.queues[model_queue]))))
        return granted

    def refused(self, model: str, sent_ns: int, now_ns: int) -> int | None:
        """Take a provider's "too many requests"; return its permits if that made them fewer."""
        provider = self._model_queues[model].provider
        cut = provider.limit.refused(sent_ns, now_ns)
        return provider.limit.permits(now_ns) if cut else None

    def answered(self, model: str) -> None:
        """Take a provider's answer."""
        self._model_queues[model].provider.limit.answered()

    def _grant(self, share: RunShare, model_queue: ModelQueue, request_id: RequestId) -> Slot:
        self._leave_queue(share, model_queue, request_id)
        self._turns += 1
        tenant = share.tenant
        self._lead, tenant.lead = tenant.virtual_time, share.virtual_time
        tenant.serve(self._turns)
        share.serve(self._turns)
        share.holding[request_id] = model_queue
        self._count_held(share, model_queue, 1)
        return share.run_id, request_id

    def _enter_lone(self) -> None:
        """Put the one that waited alone where all wait."""
        if self._lone is not None:
            share, model_queue, _ = self._lone
            self._lone = None
            model_queue.enter(share)

    @staticmethod
    def _has_room(model_queue: ModelQueue, now_ns: int) -> bool:
        provider = model_queue.provider
        return model_queue.held < model_queue.model_max and provider.held < provider.limit.permits(now_ns)

    def _next(self, now_ns: int) -> tuple[RunShare, ModelQueue] | None:
        best: tuple[RunShare, ModelQueue] | None = None
        best_key: tuple[tuple[int, int], tuple[int, int], int] | None = None
        for model_queue in self._model_queues.values():
            if not model_queue.waiting or not self._has_room(model_queue, now_ns):
                continue
            share = model_queue.first()
            if share is None:
                continue
            key = (share.tenant.key, share.key, next(iter(share.queues[model_queue].values())))
            if best_key is None or key < best_key:
                best, best_key = (share, model_queue), key
        return best

    def _leave_queue(self, share: RunShare, model_queue: ModelQueue, request_id: RequestId) -> None:
        queue = share.queues[model_queue]
        del queue[request_id]
        del share.model_queues[request_id]
        if not queue:
            del share.queues[model_queue]
        self._count_waiting(share, model_queue, -1)

    def _count_waiting(self, share: RunShare, model_queue: ModelQueue, by: int) -> None:
        self._waiting += by
        model_queue.waiting += by
        share.waiting += by
        share.tenant.waiting += by

    def _count_held(self, share: RunShare, model_queue: ModelQueue, by: int) -> None:
        self._held += by
        model_queue.held += by
        model_queue.provider.held += by
        share.held += by
        share.tenant.held += by

    def _new_model_queue(self, model: str) -> ModelQueue:
        # A model is named provider:model; one without a colon is its own provider.
        name = model.partition(":")[0]
        provider = self._providers.get(name)
        limits = self._limits
        if provider is None:
            adaptive = AdaptiveLimit(limits.provider_max, limits.adaptive_min, limits.recover_ms)
            provider = self._providers[name] = ProviderQueue(name, adaptive)
        model_queue = self._model_queues[model] = ModelQueue(provider, limits.model_max)
        return model_queue

    def _share(self, run_id: RunId) -> RunShare:
        try:
            return self._shares[run_id]
        except KeyError:
            raise InternalError(f"{run_id} takes no part in the pool") from None
