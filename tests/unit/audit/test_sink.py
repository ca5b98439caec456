"""The event log as a file."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event
from tests.support.core_facts import RUN


def event(seq: int, **data: object) -> Event:
    return Event(1, RUN, seq, seq * 10, 0, None, "thing", dict(data))


def test_each_event_is_one_line_and_there_before_the_sink_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with JsonlSink(path) as sink:
        for seq in range(3):
            sink.write(event(seq, text="é\n", list=[1, None, True]))
            lines = path.read_text().splitlines()
            assert len(lines) == seq + 1
    assert json.loads(lines[2]) == {
        "v": 1,
        "run_id": RUN,
        "seq": 2,
        "at_ns": 20,
        "depth": 0,
        "parent": None,
        "kind": "thing",
        "data": {"text": "é\n", "list": [1, None, True]},
    }


def test_the_same_events_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with JsonlSink(tmp_path / name) as sink:
            sink.write(event(0, b=1, a=2))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_the_owner_may_read_it_even_if_it_was_open_to_all(tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    old.write_text("what was there")
    old.chmod(0o666)
    for path in (fresh, old):
        JsonlSink(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == b""


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RlmWasmError, match=r"missing/events\.jsonl: cannot open the event log: No such file"):
        JsonlSink(tmp_path / "missing" / "events.jsonl")


def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    sink = JsonlSink("/dev/full")
    with pytest.raises(RlmWasmError, match="/dev/full: cannot write the event log: No space left"):
        sink.write(event(0))
    with pytest.raises(RlmWasmError, match="closed"):
        sink.write(event(1))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_half_way_leaves_whole_lines_only(tmp_path: Path) -> None:
    """The kernel takes part of the line, then refuses; what it took is given back."""
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    sink.write(event(0))
    whole = path.read_bytes()
    with file_size_limit(len(whole) + 20):
        with pytest.raises(RlmWasmError, match="cannot write the event log"):
            sink.write(event(1))
    assert path.read_bytes() == whole


def test_a_pipe_will_do(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with JsonlSink(path) as sink:
            sink.write(event(0))
        assert json.loads(os.read(reader, 4_096))["seq"] == 0
    finally:
        os.close(reader)


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "events.jsonl")
    sink.close()
    sink.close()
