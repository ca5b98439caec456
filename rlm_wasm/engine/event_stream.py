"""The events of one run for any number of readers, none of which the run ever waits for."""

from __future__ import annotations

import weakref
from collections import deque
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from rlm_wasm.audit.spill import Spill
from rlm_wasm.events import Event, Gap
from rlm_wasm.host.affinity import Affinity
from rlm_wasm.limits import EventLimits


class EventHub:
    """Hands every event of a run to the readers there are. A reader nobody holds any more is forgotten."""

    def __init__(self, limits: EventLimits, home: Affinity) -> None:
        self._limits = limits
        self._home = home
        self._readers: list[weakref.ref[EventReader]] = []
        self._next_seq = 0
        self._ended = False

    def reader(self) -> EventReader:
        """Return a reader of what comes from now on; what has been is a gap at its beginning."""
        missed = Gap(0, self._next_seq - 1) if self._next_seq else None
        reader = EventReader(self._limits, self._home, missed)
        if self._ended:
            reader.end()
        self._readers.append(weakref.ref(reader, self._readers.remove))
        return reader

    def publish(self, event: Event) -> None:
        """Hand on one event. Never waits, never raises."""
        self._next_seq = event.seq + 1
        for reference in tuple(self._readers):
            if (reader := reference()) is not None:
                reader.put(event)

    def end(self) -> None:
        """Say that there is no further event. Safe to call again."""
        self._ended = True
        for reference in tuple(self._readers):
            if (reader := reference()) is not None:
                reader.end()


class EventReader:
    """Yields events in their order, and a Gap where the run was too far ahead. For one task.

    What waits to be read is at most `buffer_events_max` events in memory, and before those, if the
    policy says so, `spill_bytes_max` on disk. The oldest goes first: the end of a run is never lost.
    Close it, use `async with`, or let it go.
    """

    def __init__(self, limits: EventLimits, home: Affinity, missed: Gap | None) -> None:
        self._home = home
        self._events_max = limits.buffer_events_max
        # In the order of reading: what was spilled, the gap, what is in memory.
        self._spill = Spill(limits.spill_bytes_max) if limits.when_full == "spill" else None
        self._gap = missed
        self._buffer: deque[Event] = deque()
        self._ended = False
        self._arrived = anyio.Event()
        if self._spill is not None:
            weakref.finalize(self, self._spill.close)

    def put(self, event: Event) -> None:
        """Take an event from the hub."""
        if self._ended:
            return
        if len(self._buffer) >= self._events_max:
            self._make_room()
        self._buffer.append(event)
        self._arrived.set()

    def end(self) -> None:
        """Stop after what is there."""
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        """Forget what is there, and stop."""
        self._gap = None
        self._buffer.clear()
        if self._spill is not None:
            self._spill.close()
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap:
        """Return the next event or gap. Cancelling this loses nothing.

        Raises:
            RlmWasmError: what was spilled to disk cannot be read back; or this is another event loop than
                the run's.
        """
        self._home.check("the reader")
        await checkpoint()
        while (item := self._take()) is None:
            if self._ended:
                raise StopAsyncIteration
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> Event | Gap | None:
        if self._spill:
            return self._spill.get()
        if self._gap is not None:
            gap, self._gap = self._gap, None
            return gap
        return self._buffer.popleft() if self._buffer else None

    def _make_room(self) -> None:
        oldest = self._buffer.popleft()
        if self._gap is not None:
            self._gap = Gap(self._gap.first_seq, oldest.seq)
        elif self._spill is None or not self._spill.put(oldest):
            self._gap = Gap(oldest.seq, oldest.seq)
