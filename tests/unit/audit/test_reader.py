"""Reading an event log back: everything that is not one is told with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_wasm.audit.line import encode_line
from rlm_wasm.audit.reader import EventLogError, read_events
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.events import Event
from rlm_wasm.scheduler.inputs import IterationStarted, RunEnded
from tests.support.core_facts import RUN, query, started
from tests.support.scheduler_driver import Driver, answered, events


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A short log of a real scheduler."""
    driver = Driver()
    driver.give(started(texts=True), IterationStarted(RUN), query(1), answered(1), RunEnded(RUN))
    path = tmp_path / "events.jsonl"
    with JsonlSink(path) as sink:
        for event in events(driver.said):
            sink.write(event)
    return path


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def write(log: Path, lines: list[dict[str, Any]]) -> None:
    log.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def fault(log: Path) -> EventLogError:
    with pytest.raises(EventLogError) as caught:
        list(read_events(log))
    assert str(log) in str(caught.value)
    return caught.value


def test_what_was_written_is_read(log: Path) -> None:
    found = list(read_events(log))
    assert [line.line for line in found] == list(range(1, len(found) + 1))
    assert b"".join(encode_line(line.event) for line in found) == log.read_bytes()
    assert all(isinstance(line.event, Event) for line in found)
    assert found[-1].event.kind == "run_ended"


def test_a_log_may_stop_where_its_run_was_killed(log: Path) -> None:
    whole = log.read_text().splitlines(keepends=True)
    log.write_text("".join(whole[:3]))
    assert len(list(read_events(log))) == 3


def _set(line: int, **changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda lines: lines[line].update(changes)


@pytest.mark.threat("T-082")
@pytest.mark.parametrize(
    ("change", "line", "what"),
    [
        (_set(2, seq=7), 3, "seq: is 7, and 2 is due"),
        (_set(2, run_id="run_other"), 3, "run_id: is another run's"),
        (_set(2, at_ns=-5), 3, "at_ns: goes back"),
        (_set(2, v=2), 3, "v: is 2"),
        (_set(2, kind="made_up"), 3, "kind: 'made_up' is not known"),
        (_set(2, kind=5), 3, "is not an event"),
        (_set(2, seq="2"), 3, "is not an event"),
        (_set(2, seq=2.0), 3, "is not an event"),
        (_set(2, extra=1), 3, "is not written as an event log writes it"),
        (_set(2, data=[]), 3, "is not an event"),
        (_set(2, seq=10**400), 3, "seq: is out of range"),
        (_set(2, depth=-(10**400)), 3, "depth: is out of range"),
        (lambda lines: lines[2]["data"].update(request=10**4_000), 3, "data.request: must be int"),
        (_set(0, kind="run_ended"), 1, "data."),
        (_set(0, at_ns=4), 1, "seq, at_ns: a log begins with 0"),
        (lambda lines: lines.pop(0), 1, "kind: a log begins with run_started"),
        (lambda lines: lines.append(lines[-1]), 7, "comes after the end of the run"),
        (lambda lines: lines.insert(2, lines[2]), 4, "seq: is 2, and 3 is due"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(log: Path, change: Callable, line: int, what: str) -> None:
    lines = lines_of(log)
    change(lines)
    write(log, lines)
    error = fault(log)
    assert what in str(error)
    assert error.line == line


@pytest.mark.threat("T-082")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"{}\n", 1),
        (b"not json\n", 1),
        (b"\xff\xfe\n", 1),
        (b'"\\ud800"\n', 1),
        (b"[" * 100_000 + b"\n", 1),
        (b'{"v":1' + b" " * 1_000_000 + b"}\n", 1),
    ],
)
def test_a_file_that_is_no_log_is_one_typed_error(tmp_path: Path, text: bytes, line: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text)
    assert fault(path).line == line


@pytest.mark.threat("T-082")
def test_a_line_that_is_cut_off_or_endless_is_told(
    log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    assert "cut off" in str(fault(log))
    monkeypatch.setattr("rlm_wasm.audit.reader.LINE_BYTES_MAX", 1_000)
    log.write_bytes(b"x" * 5_000)
    assert "too long" in str(fault(log))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "No such file" in str(fault(tmp_path / "none.jsonl"))
    assert "directory" in str(fault(tmp_path))


@pytest.mark.threat("T-082")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_byte_is_an_error_or_another_good_log(log: Path, data: st.DataObject) -> None:
    """Whatever the bytes, nothing but EventLogError comes out, and what is read is what is written there."""
    whole = log.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + data.draw(st.integers(0, 4)) :]
    other = log.with_name("changed.jsonl")
    other.write_bytes(changed)
    try:
        found = list(read_events(other))
    except EventLogError:
        return
    assert b"".join(encode_line(line.event) for line in found) == changed
