"""Whose refusal is next: the fast books against slow ones that look through everything each time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.events import EVENT_VERSION, Event
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.replay.recorded_event import ConversationId
from rlm_wasm.replay.recorded_refusals import Fold, OwedRefusals, fold_of

owners: st.SearchStrategy[ConversationId] = st.sampled_from([None, RequestId(2), RequestId(5)])
rows = st.lists(
    st.tuples(st.sampled_from("ab"), owners, st.integers(-1, 4), st.integers(0, 9), st.integers(0, 9)),
    max_size=6,
    unique_by=lambda row: row[:2],
)


def denied(reason: str, owner: ConversationId, count: int, first: int, last: int) -> Event:
    data: dict[str, object] = {"reason": reason, "count": count, "first_request": first, "last_request": last}
    return Event(EVENT_VERSION, RunId("run_1"), 1, 0, 0, owner, "query_denied", data)


class Slow:
    """The same, as it was said: every event is looked at for every question."""

    def __init__(self, owed: list[Event], refused: Counter[Fold]) -> None:
        self.owed, self.refused = owed, refused

    def unmet(self) -> list[Event]:
        return [event for event in self.owed if self.refused[fold_of(event)] < event.data["count"]]  # type: ignore[operator]

    def next_owner(self, last_request: int) -> ConversationId:
        unmet = self.unmet()
        missing = sum(event.data["count"] - self.refused[fold_of(event)] for event in unmet)  # type: ignore[operator,misc]
        numbers = max(event.data["last_request"] for event in unmet) - last_request  # type: ignore[operator,type-var]
        for number in range(last_request + 1, last_request + (3 if numbers > missing else 2)):
            for event in unmet:
                refused, count = self.refused[fold_of(event)], event.data["count"]
                if refused == 0 and event.data["first_request"] == number:
                    return fold_of(event)[1]
                if refused == count - 1 and event.data["last_request"] == number:  # type: ignore[operator]
                    return fold_of(event)[1]
        begun = [event for event in unmet if 0 < self.refused[fold_of(event)] < event.data["count"] - 1]  # type: ignore[operator]
        return fold_of(min(begun or unmet, key=lambda event: event.data["last_request"]))[1]  # type: ignore[arg-type,return-value]


@settings(max_examples=300, deadline=None)
@given(
    rows=rows,
    before=st.dictionaries(st.tuples(st.sampled_from("ab"), owners), st.integers(0, 3)),
    steps=st.lists(st.tuples(st.sampled_from("abc"), owners, st.integers(0, 2)), max_size=20),
)
def test_the_next_one_is_who_is_found_by_looking_through_all(
    rows: list[tuple[str, ConversationId, int, int, int]],
    before: dict[Fold, int],
    steps: list[tuple[str, ConversationId, int]],
) -> None:
    events = [denied(*row) for row in rows]
    slow, fast = Slow(events, Counter(before)), OwedRefusals(events, Counter(before))
    last_request = 0
    for reason, owner, more in steps:
        assert bool(fast) == bool(slow.unmet())
        if fast:
            assert fast.next_owner(last_request) == slow.next_owner(last_request)
        slow.refused[reason, owner] += 1
        fast.refuse((reason, owner))
        last_request += more
