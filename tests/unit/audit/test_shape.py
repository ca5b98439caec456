"""A line that would be much larger in memory than in its file is refused before it is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.audit import reader
from rlm_wasm.audit.line import decode_line, encode_line
from rlm_wasm.audit.reader import EventLogError, read_events
from rlm_wasm.audit.shape import ITEMS_MAX, LISTS_MAX, shape_fault
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.events import EVENT_VERSION, Event
from rlm_wasm.limits import RunLimits, ceilings
from rlm_wasm.scheduler.inputs import IterationStarted, RunEnded
from tests.support.core_facts import RUN, query, started
from tests.support.scheduler_driver import Driver, answered, events

SIZE = 4 << 20
BOMBS = {
    "lists": b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "dicts": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "deep": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "keys": b"{" + b",".join(b'"%x":0' % n for n in range(SIZE // 10)) + b"}",
    "ints": b"[" + b"1," * (SIZE // 2) + b"1]",
    "nulls": b"[" + b"null," * (SIZE // 5) + b"null]",
    "strings": b"[" + b'"a",' * (SIZE // 4) + b'"a"]',
    "strings that end with a backslash": b"[" + b'"\\\\",' * (SIZE // 5) + b'"a"]',
    "an int": b"9" * SIZE,
    "a float": b"1e" + b"9" * SIZE,
    "many lists": b"[" + b"[]," * LISTS_MAX + b'"' + b"x" * SIZE + b'"]',
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    driver = Driver()
    driver.give(started(texts=True), IterationStarted(RUN), query(1), answered(1), RunEnded(RUN))
    path = tmp_path / "events.jsonl"
    with JsonlSink(path) as sink:
        for event in events(driver.said):
            sink.write(event)
    return path


@pytest.mark.threat("T-174")
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_be_many_objects_is_not_decoded(
    log: Path, bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    head = lines[1].partition(b'"data":')[0]
    log.write_bytes(lines[0] + head + b'"data":{"x":' + BOMBS[bomb] + b"}}\n")

    def decode(line: bytes) -> Event:
        assert line == lines[0], "it was decoded"
        return decode_line(line)

    monkeypatch.setattr(reader, "decode_line", decode)
    with pytest.raises(EventLogError) as caught:
        list(read_events(log))
    assert caught.value.line == 2


def encoded(**data: object) -> bytes:
    return encode_line(Event(EVENT_VERSION, RUN, 1, 0, 0, None, "query_received", data))


@pytest.mark.threat("T-174")
@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text(alphabet='a"\\[]{},:é\U0001f600\n\x00'), max_size=20),
    times=st.integers(1, 3_000),
    number=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_whatever_a_text_holds_an_event_is_taken(texts: list[str], times: int, number: int) -> None:
    padding = "".join(texts) * times + "\\" * times
    line = encoded(texts=[*texts, padding, "x" * (1 << 16)], group=number, roles=[None] * times)
    assert shape_fault(line) is None


def test_the_longest_conversation_that_a_policy_allows_is_taken() -> None:
    messages = 2 * ceilings(RunLimits)["turns_max"] + 2
    line = encoded(roles=["assistant"] * messages, texts=['say "no"'] * messages)
    assert shape_fault(line) is None
    assert 2 * messages < ITEMS_MAX


@pytest.mark.threat("T-174")
def test_a_log_has_no_more_events_than_it_says_itself_or_its_reader_takes(log: Path) -> None:
    count = len(log.read_bytes().splitlines())
    assert len(list(read_events(log, events_max=count))) == count
    with pytest.raises(EventLogError, match=f"comes after the {count - 1} events") as caught:
        list(read_events(log, events_max=count - 1))
    assert caught.value.line == count
    said = log.read_bytes().replace(b'"run_events_max":1000,', b'"run_events_max":3,')
    assert said != log.read_bytes()
    log.write_bytes(said)
    with pytest.raises(EventLogError, match="comes after the 3 events"):
        list(read_events(log))
    with pytest.raises(EventLogError, match="too long"):
        list(read_events(log, bytes_max=len(said) // 2))
