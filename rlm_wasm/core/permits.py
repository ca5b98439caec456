"""One pool of slots for provider I/O, over all runs: FIFO within a run, round-robin between runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId, RunId

Slot: TypeAlias = tuple[RunId, RequestId]


@dataclass(slots=True)
class _Share:
    """One run's part of the pool. Dicts are ordered sets here: withdrawing is as cheap as granting."""

    permits_max: int
    waiting_max: int
    held: set[RequestId] = field(default_factory=set)
    waiting: dict[RequestId, None] = field(default_factory=dict)


class Permits:
    """At most `limit` requests hold a permit at once, and of one run at most its own share.

    After `hand_out` no permit is idle while a run below its share has a request waiting.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise InternalError(f"a pool of {limit} permits")
        self._limit = limit
        self._held = 0
        self._shares: dict[RunId, _Share] = {}
        self._ring: dict[RunId, None] = {}  # runs with somebody waiting, next turn first

    @property
    def held(self) -> int:
        """How many permits are out."""
        return self._held

    def held_by(self, run_id: RunId) -> int:
        """Return how many permits a run holds; a run that is not here holds none."""
        share = self._shares.get(run_id)
        return len(share.held) if share else 0

    def waiting_of(self, run_id: RunId) -> int:
        """Return how many requests of a run wait."""
        share = self._shares.get(run_id)
        return len(share.waiting) if share else 0

    def add_run(self, run_id: RunId, *, permits_max: int, waiting_max: int) -> None:
        """Let a run take part, with its own bounds."""
        if run_id in self._shares:
            raise InternalError(f"{run_id} takes part already")
        if permits_max < 1:
            raise InternalError(f"a share of {permits_max} permits")
        self._shares[run_id] = _Share(permits_max, waiting_max)

    def remove_run(self, run_id: RunId) -> None:
        """Forget a run. It must hold and want nothing: a leak is our bug and must not pass silently."""
        share = self._share(run_id)
        if share.held or share.waiting:
            raise InternalError(
                f"{run_id} left with {len(share.held)} permits and {len(share.waiting)} waiting"
            )
        del self._shares[run_id]

    def request(self, run_id: RunId, request_id: RequestId) -> None:
        """Queue for a permit, which the next `hand_out` may grant."""
        share = self._share(run_id)
        if request_id in share.held or request_id in share.waiting:
            raise InternalError(f"request {request_id} of {run_id} asked for a second permit")
        if len(share.waiting) >= share.waiting_max:
            raise InternalError(f"more than {share.waiting_max} requests of {run_id} wait for a permit")
        share.waiting[request_id] = None
        self._ring.setdefault(run_id)

    def release(self, run_id: RunId, request_id: RequestId) -> None:
        """Give a permit back."""
        share = self._share(run_id)
        if request_id not in share.held:
            raise InternalError(f"request {request_id} of {run_id} holds no permit")
        share.held.remove(request_id)
        self._held -= 1

    def withdraw(self, run_id: RunId, request_id: RequestId) -> None:
        """Take a waiting request out of the queue."""
        share = self._share(run_id)
        if request_id not in share.waiting:
            raise InternalError(f"request {request_id} of {run_id} is not waiting")
        self._leave_queue(run_id, share, request_id)

    def hand_out(self) -> tuple[Slot, ...]:
        """Grant every permit that can be granted now, and return to whom, in order."""
        granted: list[Slot] = []
        while self._held < self._limit and (run_id := self._next_run()) is not None:
            share = self._shares[run_id]
            request_id = next(iter(share.waiting))
            self._leave_queue(run_id, share, request_id)
            if share.waiting:
                # To the end of the ring: the next permit is another run's.
                del self._ring[run_id]
                self._ring[run_id] = None
            share.held.add(request_id)
            self._held += 1
            granted.append((run_id, request_id))
        return tuple(granted)

    def _next_run(self) -> RunId | None:
        for run_id in self._ring:
            share = self._shares[run_id]
            if len(share.held) < share.permits_max:
                return run_id
        return None

    def _leave_queue(self, run_id: RunId, share: _Share, request_id: RequestId) -> None:
        del share.waiting[request_id]
        if not share.waiting:
            del self._ring[run_id]

    def _share(self, run_id: RunId) -> _Share:
        try:
            return self._shares[run_id]
        except KeyError:
            raise InternalError(f"{run_id} takes no part in the pool") from None
