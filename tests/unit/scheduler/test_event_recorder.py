"""The numbered events of a run."""

from __future__ import annotations

import pytest

from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.event_recorder import EventRecorder
from tests.support.core_facts import RUN


def recorder(events_max: int = 100) -> EventRecorder:
    return EventRecorder(RUN, events_max, started_ns=1_000)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_events_are_numbered_from_zero_and_timed_from_the_start() -> None:
    log = recorder()
    events = [*log.record("one", 1_000, {}), *log.record("two", 1_005, {"x": 1}), *log.close(1_009, {})]
    assert [(e.seq, e.at_ns, e.kind) for e in events] == [(0, 0, "one"), (1, 5, "two"), (2, 9, "run_ended")]


@pytest.mark.parametrize("events_max", [1, 2, 3, 5])
def test_the_cap_holds_is_announced_and_leaves_room_for_the_end(events_max: int) -> None:
    log = recorder(events_max)
    events = [event for number in range(20) for event in log.record(f"e{number}", 2_000, {})]
    events += log.close(3_000, {})
    assert len(events) == events_max
    assert [e.seq for e in events] == list(range(events_max))
    assert events[-1].kind == "run_ended"
    assert events[-1].data["events_dropped"] == 20 - max(0, events_max - 2)
    assert kinds(events).count("events_truncated") == (1 if events_max > 1 else 0)


def test_a_log_that_is_not_full_is_not_truncated() -> None:
    log = recorder(4)
    events = [*log.record("one", 1_000, {}), *log.record("two", 1_000, {}), *log.close(1_000, {})]
    assert kinds(events) == ["one", "two", "run_ended"]
    assert events[-1].data["events_dropped"] == 0


def test_a_million_denials_are_one_event() -> None:
    log = recorder()
    for number in range(1_000_000):
        log.deny("budget: calls", RequestId(number))
    first, second = log.record("other", 2_000, {})
    assert (first.kind, second.kind) == ("query_denied", "other")
    assert first.data == {
        "reason": "budget: calls",
        "count": 1_000_000,
        "first_request": 0,
        "last_request": 999_999,
    }


def test_denials_between_other_events_keep_their_place() -> None:
    log = recorder()
    log.deny("a", RequestId(1))
    events = log.record("x", 1_000, {})
    log.deny("a", RequestId(2))
    log.deny("b", RequestId(3))
    events += log.close(1_000, {})
    assert kinds(events) == ["query_denied", "x", "query_denied", "query_denied", "run_ended"]
    assert events[-1].data["queries_denied"] == 3


def test_a_lone_surrogate_in_a_text_can_still_be_written() -> None:
    (event,) = recorder().record("x", 1_000, {"text": "a\ud800b", "texts": ["\udfff", "é"]})
    assert event.data == {"text": "a?b", "texts": ["?", "é"]}
