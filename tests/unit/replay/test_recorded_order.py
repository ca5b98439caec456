"""What a script costs to follow, and where it ends."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import QueryError
from rlm_wasm.events import EVENT_VERSION, Event
from rlm_wasm.ids import RequestId
from rlm_wasm.replay.recorded_order import RecordedOrder, Whose
from rlm_wasm.scheduler.effects import Respond
from rlm_wasm.scheduler.request import Denied
from tests.support.core_facts import RUN

REFUSALS = 5_000
ASKED = 500


class Counted(list[Event]):
    """Events that count how often one is looked at."""

    looked = 0

    def __getitem__(self, at: object) -> Event:  # type: ignore[override]
        self.looked += 1
        return super().__getitem__(at)  # type: ignore[index, no-any-return]


def event(seq: int, kind: str, **data: object) -> Event:
    return Event(EVENT_VERSION, RUN, seq, 0, 0, None, kind, data)


def denied(seq: int, reason: str, count: int) -> Event:
    return event(seq, "query_denied", reason=reason, count=count, first_request=2, last_request=1 << 40)


@pytest.mark.threat("T-172")
@pytest.mark.parametrize("reasons", [1, REFUSALS])
def test_each_event_is_looked_at_a_few_times_however_many_refusals_stand_in_a_row(reasons: int) -> None:
    events = Counted([event(0, "run_started")])
    events += [denied(1 + n, f"reason {n % reasons}", 1 << 30) for n in range(REFUSALS)]
    events.append(event(REFUSALS + 1, "cell_ended"))
    order = RecordedOrder(events)
    for number in range(ASKED):
        assert order.whose_turn() is None
        assert order.due() is None
        order.performed(Respond(RUN, RequestId(number), Denied(QueryError("no"))))
    assert events.looked < 4 * (REFUSALS + ASKED)


@pytest.mark.threat("T-171")
def test_what_is_told_with_an_event_that_is_missing_is_not_waited_for() -> None:
    events = [event(0, "run_started"), event(1, "provider_throttled"), denied(2, "x", 1)]
    order = RecordedOrder(events)
    assert order.whose_turn() is not Whose.ANYBODYS
    order._emitted(events[0])
    assert order.over
    assert order.whose_turn() is Whose.ANYBODYS
    assert (
        order.ended
        == "the recording ends with event 2, before its run did; what came with event 1 is missing"
    )
