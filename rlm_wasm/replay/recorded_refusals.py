"""The refusals that a recording has before its next other event, and who is to be refused next.

A refusal is no event of its own: an event of refusals says how many there were of a reason and an asker, and
between which two requests. Whoever repeats the run has to find an order that gives the same numbers.
Each question takes logarithmic time, however many such events stand in a row.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from rlm_wasm.events import Event
from rlm_wasm.replay.recorded_event import ConversationId, int_in, parent_of

# Why requests were refused, and who asked: what one event of refusals is about.
Fold = tuple[str, ConversationId]


def fold_of(event: Event) -> Fold:
    """Return what an event of refusals is about."""
    return str(event.data["reason"]), parent_of(event)


@dataclass(slots=True)
class _Owed:
    """One event of refusals, and how many of them there were."""

    place: int
    owner: ConversationId
    count: int
    first_request: int
    last_request: int
    refused: int

    @property
    def met(self) -> bool:
        return self.refused >= self.count

    @property
    def lacks_its_last(self) -> bool:
        return self.refused == self.count - 1

    @property
    def is_under_way(self) -> bool:
        return 0 < self.refused < self.count - 1


# By a number, and by place where that is the same.
_Heap = list[tuple[int, int, _Owed]]


class OwedRefusals:
    """Refusals that are to come, of events in a row, no two of which are about the same.

    `refused` says how many there were of each kind already.
    """

    def __init__(self, events: Iterable[Event], refused: Mapping[Fold, int]) -> None:
        self._by_fold: dict[Fold, _Owed] = {}
        self._by_first: dict[int, deque[_Owed]] = {}
        # Those that lack no more than their last.
        self._by_last: dict[int, _Heap] = {}
        self._unmet = 0
        self._missing = 0
        self._under_way: _Heap = []
        self._soonest: _Heap = []
        self._latest: _Heap = []
        places = count()
        for event in events:
            fold = fold_of(event)
            owed = _Owed(
                next(places),
                parent_of(event),
                int_in(event, "count"),
                int_in(event, "first_request"),
                int_in(event, "last_request"),
                refused.get(fold, 0),
            )
            self._by_fold[fold] = owed
            if not owed.met:
                self._unmet += 1
                self._missing += owed.count - owed.refused
                self._by_first.setdefault(owed.first_request, deque()).append(owed)
                heapq.heappush(self._soonest, (owed.last_request, owed.place, owed))
                heapq.heappush(self._latest, (-owed.last_request, owed.place, owed))
                self._file(owed)

    def __bool__(self) -> bool:
        """Whether any is still to come."""
        return self._unmet > 0

    def refuse(self, fold: Fold, times: int = 1) -> None:
        """Count one, or as many as were refused together."""
        owed = self._by_fold.get(fold)
        if owed is None or owed.met:
            return
        first, times = owed.refused == 0, min(times, owed.count - owed.refused)
        owed.refused += times
        self._missing -= times
        if owed.met:
            self._unmet -= 1
        elif first or owed.lacks_its_last:
            self._file(owed)

    def _file(self, owed: _Owed) -> None:
        """Put it where it is looked for from now on; it is taken out there when it no longer belongs."""
        if owed.lacks_its_last:
            heap = self._by_last.setdefault(owed.last_request, [])
            heapq.heappush(heap, (0, owed.place, owed))
        elif owed.is_under_way:
            heapq.heappush(self._under_way, (owed.last_request, owed.place, owed))

    def next_owner(self, last_request: int) -> ConversationId:
        """Return who may be refused next, so that first and last request of each event come out right.

        To be asked while any is to come. Requests are numbered in the order of asking, and a batch takes a
        number more; `last_request` is the last number given.
        """
        latest = _first(self._latest, lambda owed: not owed.met)
        soonest = _first(self._soonest, lambda owed: not owed.met)
        assert latest is not None, "none is to come"
        assert soonest is not None, "none is to come"
        numbers = latest.last_request - last_request
        # Where there are more numbers than requests, the next one may be a batch's own.
        for number in range(last_request + 1, last_request + (3 if numbers > self._missing else 2)):
            if (named := self._named(number)) is not None:
                return named.owner
        # Any order of the others will do in which nobody comes too late for its last.
        under_way = _first(self._under_way, lambda owed: owed.is_under_way)
        return (under_way or soonest).owner

    def _named(self, number: int) -> _Owed | None:
        """Return the event whose first or last refusal is that of request `number`."""
        firsts = self._by_first.get(number, deque())
        while firsts and firsts[0].refused:
            firsts.popleft()
        last = _first(self._by_last.get(number, []), lambda owed: owed.lacks_its_last)
        if not firsts or last is None:
            return firsts[0] if firsts else last
        return min(firsts[0], last, key=lambda owed: owed.place)


def _first(heap: _Heap, belongs: Callable[[_Owed], bool]) -> _Owed | None:
    """Return the first of a heap that still belongs there; those before it never will again."""
    while heap and not belongs(heap[0][2]):
        heapq.heappop(heap)
    return heap[0][2] if heap else None
