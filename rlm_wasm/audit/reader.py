"""Reading an event log back: bounded, typed, strict. What is wrong is told with its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from rlm_wasm.audit.catalogue import fault_of
from rlm_wasm.audit.line import decode_line, encode_line
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event

# A line with texts holds a whole conversation at most; a log, run.events_max of them.
LINE_BYTES_MAX: Final = 64 << 20
LOG_BYTES_MAX: Final = 4 << 30


class EventLogError(UsageError):
    """An event log cannot be read, or is not one. `line` counts from 1; 0 is the file as a whole."""

    def __init__(self, path: str, line: int, what: str) -> None:
        super().__init__(f"{path}:{line}: {what}" if line else f"{path}: {what}")
        self.line: Final = line


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One line of a log: the event, and the bytes it was read from, without the line's end."""

    line: int
    raw: bytes
    event: Event


def read_events(path: str | os.PathLike[str]) -> Iterator[LoggedEvent]:
    """Yield the events of one run's log, in order; EventLogError for the first thing that is wrong.

    A log may stop before `run_ended`, where its run was killed; never within a line.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            yield from _events(name, _lines(name, file))
    except OSError as exc:
        raise EventLogError(name, 0, f"cannot be read: {exc.strerror}") from exc


def _lines(name: str, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number, total = 0, 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        total += len(line)
        if len(line) > LINE_BYTES_MAX or total > LOG_BYTES_MAX:
            raise EventLogError(name, number, "is too long for an event log")
        if not line.endswith(b"\n"):
            raise EventLogError(name, number, "the line is cut off")
        yield number, line
    if not number:
        raise EventLogError(name, 0, "is empty")


def _events(name: str, lines: Iterator[tuple[int, bytes]]) -> Iterator[LoggedEvent]:
    last: Event | None = None
    for number, line in lines:
        try:
            event = decode_line(line)
        except ValueError as exc:
            raise EventLogError(name, number, f"is not an event: {ascii(str(exc))[1:-1][:200]}") from exc
        fault = fault_of(event) or _order_fault(last, event)
        if fault is None and encode_line(event) != line:
            fault = "is not written as an event log writes it"
        if fault is not None:
            raise EventLogError(name, number, fault)
        yield LoggedEvent(number, line[:-1], event)
        last = event


def _order_fault(last: Event | None, event: Event) -> str | None:
    if last is None:
        if event.kind != "run_started":
            return f"kind: a log begins with run_started, not {event.kind}"
        return None if (event.seq, event.at_ns) == (0, 0) else "seq, at_ns: a log begins with 0"
    if event.run_id != last.run_id:
        return "run_id: is another run's"
    if last.kind == "run_ended":
        return "comes after the end of the run"
    if event.seq != last.seq + 1:
        return f"seq: is {event.seq}, and {last.seq + 1} is due"
    return None if event.at_ns >= last.at_ns else f"at_ns: goes back by {last.at_ns - event.at_ns}"
