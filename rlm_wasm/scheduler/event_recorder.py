"""The events of one run: numbered without gaps, capped, repeated denials folded into one."""

from __future__ import annotations

from dataclasses import dataclass

from rlm_wasm.events import EVENT_VERSION, Event
from rlm_wasm.ids import RequestId, RunId


@dataclass(slots=True)
class _Fold:
    """Denials of one conversation for one reason since the last other event."""

    count: int
    first_request: RequestId
    last_request: RequestId


class EventRecorder:
    """Makes the events of one run.

    At most `events_max` come out. The last two places are kept: for one `events_truncated` where the
    cut is, and for the end, which always fits.
    """

    def __init__(self, run_id: RunId, events_max: int, started_ns: int) -> None:
        self._run_id = run_id
        self._events_max = max(1, events_max)
        self._started_ns = started_ns
        self._seq = 0
        self._dropped = 0
        self._denied = 0
        self._folds: dict[tuple[str, int, int | None], _Fold] = {}

    def record(
        self, kind: str, now_ns: int, data: dict[str, object], *, depth: int = 0, parent: int | None = None
    ) -> list[Event]:
        """Return the events to write for this one: itself, after the denials folded until now."""
        if self._folds:
            return self._unfold(now_ns) + self._admit(kind, now_ns, data, depth, parent)
        if self._seq < self._events_max - 2:
            return [self._number(kind, now_ns, data, depth, parent)]
        return self._admit(kind, now_ns, data, depth, parent)

    def deny(
        self,
        reason: str,
        request_id: RequestId,
        depth: int = 0,
        parent: int | None = None,
        *,
        count: int = 1,
    ) -> None:
        """Count denials of requests that follow each other in number, `request_id` the first.

        A guest that repeats itself for ever makes one number grow, not the log.
        """
        self._denied += count
        last = RequestId(request_id + count - 1)
        fold = self._folds.get((reason, depth, parent))
        if fold is None:
            self._folds[reason, depth, parent] = _Fold(count, request_id, last)
        else:
            fold.count += count
            fold.last_request = last

    def close(self, now_ns: int, data: dict[str, object]) -> list[Event]:
        """Return the last events of the run, ending with `run_ended`."""
        events = self._unfold(now_ns)
        totals = {"queries_denied": self._denied, "events_dropped": self._dropped}
        return [*events, self._number("run_ended", now_ns, data | totals, 0, None)]

    def _unfold(self, now_ns: int) -> list[Event]:
        folds, self._folds = self._folds, {}
        events: list[Event] = []
        for (reason, depth, parent), fold in folds.items():
            data: dict[str, object] = {
                "reason": reason,
                "count": fold.count,
                "first_request": fold.first_request,
                "last_request": fold.last_request,
            }
            events += self._admit("query_denied", now_ns, data, depth, parent)
        return events

    def _admit(
        self, kind: str, now_ns: int, data: dict[str, object], depth: int, parent: int | None
    ) -> list[Event]:
        if self._seq < self._events_max - 2:
            return [self._number(kind, now_ns, data, depth, parent)]
        self._dropped += 1
        if self._seq == self._events_max - 2:
            return [self._number("events_truncated", now_ns, {"events_max": self._events_max}, 0, None)]
        return []

    def _number(
        self, kind: str, now_ns: int, data: dict[str, object], depth: int, parent: int | None
    ) -> Event:
        seq = self._seq
        self._seq += 1
        at_ns = now_ns - self._started_ns
        return Event(EVENT_VERSION, self._run_id, seq, at_ns, depth, parent, kind, _writable(data))


def _writable(data: dict[str, object]) -> dict[str, object]:
    """Replace lone surrogates, which a provider's text may hold and UTF-8 cannot."""
    for value in data.values():
        kind = type(value)
        if kind is not int and (kind is list or (kind is str and not value.isascii())):  # type: ignore[attr-defined]
            return {name: _writable_value(value) for name, value in data.items()}
    return data


def _writable_value(value: object) -> object:
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_writable_value(item) for item in value]
    return value
