"""Timers of many runs in one task: a heap, and an event that says the earliest one changed."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import anyio

from rlm_wasm.ids import RunId

TimerKey = tuple[RunId, str]
# Entries of cleared timers that are kept before the heap is made anew.
STALE_MAX: Final = 1_024


class Timers:
    """Calls `fired(run_id, timer_id)` when a timer is due. A cleared timer never fires.

    `clock` gives nanoseconds and goes as the event loop's clock does.
    """

    def __init__(self, fired: Callable[[RunId, str], None], clock: Callable[[], int]) -> None:
        self._fired = fired
        self._clock = clock
        self._heap: list[tuple[int, TimerKey]] = []
        self._due: dict[TimerKey, int] = {}
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, run_id: RunId, timer_id: str, at_ns: int) -> None:
        """Fire at `at_ns` of the clock; a timer of the same name is replaced."""
        key = (run_id, timer_id)
        if len(self._heap) > 2 * len(self._due) + STALE_MAX:
            # A deadline is seldom met: without this the heap holds every timer of the last minutes.
            self._heap = [(due_ns, set_key) for set_key, due_ns in self._due.items()]
            heapq.heapify(self._heap)
        self._due[key] = at_ns
        entry = (at_ns, key)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._changed.set()

    def clear(self, run_id: RunId, timer_id: str) -> None:
        """Forget a timer; its heap entry is skipped when its time comes."""
        self._due.pop((run_id, timer_id), None)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._changed = anyio.Event()
            self._fire_due()
            if not self._heap:
                await self._changed.wait()
                continue
            delay = max(0, self._heap[0][0] - self._clock()) / 1e9
            with anyio.move_on_after(delay):
                await self._changed.wait()

    def _fire_due(self) -> None:
        while self._heap:
            at_ns, key = self._heap[0]
            if self._due.get(key) != at_ns:
                heapq.heappop(self._heap)  # cleared or replaced
            elif at_ns > self._clock():
                return
            else:
                heapq.heappop(self._heap)
                del self._due[key]
                self._fired(*key)
