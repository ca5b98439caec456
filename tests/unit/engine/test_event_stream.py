"""Readers of a run's events: slow ones, late ones, several, and ones that nobody holds any more."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.engine.event_stream import EventHub, EventReader
from rlm_wasm.events import Event, Gap
from rlm_wasm.host.affinity import Affinity
from rlm_wasm.limits import EventLimits
from tests.support.core_facts import RUN


def event(seq: int) -> Event:
    return Event(1, RUN, seq, seq, 0, None, "thing", {"text": "é" * seq})


def limits(events_max: int = 4, when_full: str = "drop", spill_bytes_max: int = 1 << 20) -> EventLimits:
    return EventLimits(False, events_max, when_full, spill_bytes_max)  # type: ignore[arg-type]


async def all_of(reader: EventReader) -> list[Event | Gap]:
    return [item async for item in reader]


def seqs(items: list[Event | Gap]) -> list[int]:
    """Return every seq the items stand for."""
    found: list[int] = []
    for item in items:
        found += range(item.first_seq, item.last_seq + 1) if isinstance(item, Gap) else [item.seq]
    return found


@pytest.mark.anyio
async def test_a_reader_that_is_fast_enough_gets_every_event() -> None:
    hub = EventHub(limits(2), Affinity())
    reader = hub.reader()
    seen: list[Event | Gap] = []
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            async for item in reader:
                seen.append(item)

        tasks.start_soon(read)
        for number in range(50):
            hub.publish(event(number))
            while len(seen) < number:  # it is at most one behind
                await anyio.lowlevel.checkpoint()
        hub.end()
    assert seen == [event(number) for number in range(50)]


@pytest.mark.anyio
async def test_a_reader_that_is_behind_gets_one_gap_and_then_the_newest() -> None:
    hub = EventHub(limits(3), Affinity())
    reader = hub.reader()
    for number in range(10):
        hub.publish(event(number))
    hub.end()
    items = await all_of(reader)
    assert items == [Gap(0, 6), event(7), event(8), event(9)]
    assert isinstance(items[0], Gap)
    assert items[0].count == 7


@pytest.mark.anyio
async def test_readers_do_not_disturb_each_other() -> None:
    hub = EventHub(limits(3), Affinity())
    slow, quick = hub.reader(), hub.reader()
    got = []
    for number in range(10):
        hub.publish(event(number))
        got.append(await anext(quick))
    hub.end()
    assert got == [event(number) for number in range(10)]
    assert await all_of(quick) == []
    assert seqs(await all_of(slow)) == list(range(10))


@pytest.mark.anyio
async def test_a_reader_that_comes_late_is_told_what_it_missed() -> None:
    hub = EventHub(limits(3), Affinity())
    hub.publish(event(0))
    hub.publish(event(1))
    reader = hub.reader()
    hub.publish(event(2))
    hub.end()
    assert await all_of(reader) == [Gap(0, 1), event(2)]
    assert await all_of(hub.reader()) == [Gap(0, 2)]


@pytest.mark.anyio
async def test_what_does_not_fit_into_memory_is_spilled_and_comes_back_in_order() -> None:
    hub = EventHub(limits(3, "spill"), Affinity())
    reader = hub.reader()
    for number in range(100):
        hub.publish(event(number))
    hub.end()
    assert await all_of(reader) == [event(number) for number in range(100)]


@pytest.mark.anyio
async def test_a_spill_that_is_full_leaves_a_gap_and_the_newest() -> None:
    hub = EventHub(limits(3, "spill", spill_bytes_max=1_000), Affinity())
    reader = hub.reader()
    for number in range(100):
        hub.publish(event(number))
    hub.end()
    items = await all_of(reader)
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == 1
    assert items[0] == event(0)
    assert items[-3:] == [event(97), event(98), event(99)]
    assert seqs(items) == list(range(100))


@pytest.mark.threat("T-080")
@pytest.mark.anyio
async def test_a_disk_that_refuses_the_spill_is_a_gap_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    hub = EventHub(limits(2, "spill"), Affinity())
    reader = hub.reader()
    for number in range(5):
        hub.publish(event(number))
    hub.end()
    assert await all_of(reader) == [Gap(0, 2), event(3), event(4)]


@pytest.mark.threat("T-081")
@pytest.mark.anyio
async def test_a_spill_has_no_name_and_goes_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    hub = EventHub(limits(2, "spill"), Affinity())
    held, closed, let_go = hub.reader(), hub.reader(), hub.reader()
    for number in range(5):
        hub.publish(event(number))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before + 3
    closed.close()
    del let_go
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    hub.end()
    async with held:
        assert (await anext(held)) == event(0)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.threat("T-080")
@pytest.mark.anyio
async def test_a_reader_nobody_holds_is_forgotten() -> None:
    hub = EventHub(limits(), Affinity())
    for _ in range(1_000):
        hub.reader()
    gc.collect()
    assert len(hub._readers) == 0


@pytest.mark.anyio
async def test_a_closed_reader_ends_and_takes_no_more() -> None:
    hub = EventHub(limits(), Affinity())
    reader = hub.reader()
    hub.publish(event(0))
    reader.close()
    hub.publish(event(1))
    assert await all_of(reader) == []


@pytest.mark.anyio
async def test_cancelling_a_read_loses_no_event() -> None:
    hub = EventHub(limits(), Affinity())
    reader = hub.reader()
    with anyio.move_on_after(0):
        await anext(reader)
    hub.publish(event(0))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(reader)
    hub.end()
    assert await all_of(reader) == [event(0)]


@pytest.mark.threat("T-080")
@given(
    events_max=st.integers(2, 5),
    spill_bytes_max=st.sampled_from([0, 300, 1_500, 1 << 20]),
    steps=st.lists(st.sampled_from(["publish", "publish", "read"]), max_size=80),
)
def test_what_a_reader_gets_is_every_seq_once_in_order(
    events_max: int, spill_bytes_max: int, steps: list[str]
) -> None:
    """Whatever the pace: events and gaps together are 0, 1, 2, …, memory is bounded, the end is there."""

    async def somewhere() -> Affinity:
        return Affinity()

    stream = limits(events_max, "spill" if spill_bytes_max else "drop", spill_bytes_max or 1)
    hub = EventHub(stream, anyio.run(somewhere))
    reader = hub.reader()
    published, got = 0, []
    for step in steps:
        if step == "publish":
            hub.publish(event(published))
            published += 1
        elif (item := reader._take()) is not None:
            got.append(item)
        assert len(reader._buffer) <= events_max
    while (item := reader._take()) is not None:
        got.append(item)
    reader.close()
    assert seqs(got) == list(range(published))
    assert all(item == event(item.seq) for item in got if isinstance(item, Event))
    if published:
        assert got[-1] == event(published - 1)
    if spill_bytes_max == 1 << 20:
        assert not any(isinstance(item, Gap) for item in got)
