"""The requests of one guest, without the guest."""

from __future__ import annotations

import json

import pytest

from rlm_wasm.engine.broker import Broker
from rlm_wasm.engine.guest_requests import GuestRequests
from rlm_wasm.errors import DeadlineExceeded, GuestError
from rlm_wasm.scheduler.request import Cancelled
from rlm_wasm.scheduler.scheduler import RunStarted, StartChild, StopChild
from tests.support.core_facts import MS, RUN, boundary, permit_limits, started


class Driver:
    """Starts no child; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[StartChild | StopChild | str] = []

    def end(self, reason: str) -> None:
        self.asked.append(reason)

    def start_child(self, effect: StartChild) -> None:
        self.asked.append(effect)

    def stop_child(self, effect: StopChild) -> None:
        self.asked.append(effect)


class Clock:
    """Each look at it takes `step_ms`."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.step_ms = 0

    def __call__(self) -> int:
        self.now_ns += self.step_ms * MS
        return self.now_ns


def guest_of(
    facts: RunStarted, clock: Clock, *, digests: bool = True
) -> tuple[Broker, Driver, GuestRequests]:
    broker, driver = Broker(permit_limits(), clock), Driver()
    broker.start_run(facts, lambda name: (_nobody(), name), [], driver)
    requests = GuestRequests(broker, RUN, 0, None, "m", boundary(), decode_ms_max=350, digests=digests)
    requests.begin_cell(1)
    return broker, driver, requests


def _nobody() -> object:
    raise AssertionError("no query is sent here")


def ask(requests: GuestRequests, **document: object) -> list[bytes | GuestError]:
    replies: list[bytes | GuestError] = []
    requests.ask(json.dumps(document).encode(), replies.append)
    return replies


@pytest.mark.threat("T-075")
def test_reading_a_cells_frames_has_a_limit_of_its_own() -> None:
    """The host's work for a cell is bounded like the cell's own time: other guests wait for both."""
    clock = Clock()
    _, _, requests = guest_of(started(), clock)
    clock.step_ms = 100
    for _ in range(3):
        assert isinstance(ask(requests, type="budget")[0], bytes)
    (ended,) = ask(requests, type="budget")
    assert isinstance(ended, DeadlineExceeded)
    requests.begin_cell(2)
    assert isinstance(ask(requests, type="budget")[0], bytes)


@pytest.mark.threat("T-073")
def test_a_cell_that_is_over_waits_for_none_of_its_children() -> None:
    _, driver, requests = guest_of(started(), Clock())
    replies = ask(requests, type="rlm_query_batch", prompts=["a", "b"])
    assert [type(effect) for effect in driver.asked] == [StartChild, StartChild]
    assert not replies
    requests.end_cell()
    assert [type(effect) for effect in driver.asked[2:]] == [StopChild, StopChild]
    (reply,) = replies  # to nobody: whoever drives the session drops it
    assert isinstance(reply, bytes)
    assert {item["status"] for item in json.loads(reply)["items"]} == {Cancelled.status}
    requests.end_cell()
    assert len(driver.asked) == 4


@pytest.mark.threat("T-073")
def test_a_guest_that_asks_again_was_interrupted_in_what_it_asked_before() -> None:
    _, driver, requests = guest_of(started(), Clock())
    first = ask(requests, type="rlm_query", prompt="a")
    second = ask(requests, type="rlm_query", prompt="b")
    kinds = [type(effect) for effect in driver.asked]
    assert kinds == [StartChild, StopChild, StartChild]
    assert (len(first), len(second)) == (1, 0)
    requests.end_cell()
    assert len(second) == 1


def test_a_digest_is_made_of_what_was_asked_and_of_nothing_else() -> None:
    def asked(*prompts: str, room: int = 9, digests: bool = True) -> str:
        facts = started(cell_requests_max=room)
        _, _, requests = guest_of(facts, Clock(), digests=digests)
        ask(requests, type="rlm_query_batch", prompts=prompts)
        return requests.asked

    assert len({asked("a", "b"), asked("b", "a"), asked("ab", "c"), asked("a", "bc")}) == 4
    assert asked("a", "b", "c", room=2) == asked("a", "b")
    assert asked("a", "b", digests=False) == "", "nobody reads it"


def test_the_guest_sees_its_standing() -> None:
    _, _, requests = guest_of(started(), Clock())
    (reply,) = ask(requests, type="budget")
    assert isinstance(reply, bytes)
    lines = json.loads(reply)["budget"]
    assert lines["calls"] == {"limit": 100, "spent": 0, "reserved": 0, "available": 100}
    assert lines["depth"]["available"] == 1
    assert lines["run_ms"]["limit"] == 60_000
