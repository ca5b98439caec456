"""Reading an event log back: bounded, typed, strict. What is wrong is told with its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from rlm_wasm.audit.catalogue import fault_of
from rlm_wasm.audit.line import decode_line, encode_line
from rlm_wasm.audit.log_lock import why_not_taken_up
from rlm_wasm.audit.shape import shape_fault
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event
from rlm_wasm.limits import RunLimits, ceilings

# The longest line is a query with texts: a root's whole conversation. All of a run's queries together hold
# budget.input_tokens_max tokens at about four bytes: with `standard` 200 MB, and so the last one 40 MiB where
# each reply is as long as query.response_bytes_max allows.
LINE_BYTES_MAX: Final = 64 << 20
LOG_BYTES_MAX: Final = 4 << 30
# What the first line says of run.events_max counts, up to what a policy may say.
EVENTS_MAX: Final = ceilings(RunLimits)["events_max"]


class EventLogError(UsageError):
    """An event log cannot be read, or is not one. `line` counts from 1; 0 is the file as a whole."""

    def __init__(self, path: str, line: int, what: str) -> None:
        super().__init__(f"{path}:{line}: {what}" if line else f"{path}: {what}")
        self.line: Final = line


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One line of a log. Its bytes are those of `encode_line(event)`: the reader takes no others."""

    line: int
    event: Event


def read_events(
    path: str | os.PathLike[str],
    *,
    events_max: int = EVENTS_MAX,
    bytes_max: int = LOG_BYTES_MAX,
    killed: bool = False,
) -> Iterator[LoggedEvent]:
    """Yield the events of one run's log, in order; EventLogError for the first thing that is wrong.

    A log may stop before `run_ended`, where its run was killed, and within a line only where `killed` says
    so: that line is left out, and whoever wrote the log must be gone. It has no more lines
    than its own `run.events_max` says, and none is decoded that cannot be an event by its shape.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            if killed and (why := why_not_taken_up(file.fileno())) is not None:
                raise EventLogError(name, 0, why)
            yield from _events(name, _lines(name, file, bytes_max, killed=killed), events_max)
    except OSError as exc:
        raise EventLogError(name, 0, f"cannot be read: {exc.strerror}") from exc


def _lines(name: str, file: BinaryIO, bytes_max: int, *, killed: bool) -> Iterator[tuple[int, bytes]]:
    number, total = 0, 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        total += len(line)
        if len(line) > LINE_BYTES_MAX or total > bytes_max:
            raise EventLogError(name, number, "is too long for an event log")
        if not line.endswith(b"\n"):
            if killed and number > 1:
                return
            raise EventLogError(name, number, "the line is cut off")
        yield number, line
    if not number:
        raise EventLogError(name, 0, "is empty")


def _events(name: str, lines: Iterator[tuple[int, bytes]], most: int) -> Iterator[LoggedEvent]:
    last: Event | None = None
    events_max = 1
    for number, line in lines:
        if number > events_max:
            raise EventLogError(name, number, f"comes after the {events_max} events that there may be")
        if (fault := shape_fault(line)) is not None:
            raise EventLogError(name, number, fault)
        try:
            event = decode_line(line)
        except ValueError as exc:
            raise EventLogError(name, number, f"is not an event: {ascii(str(exc))[1:-1][:200]}") from exc
        fault = fault_of(event) or _order_fault(last, event)
        if fault is None and encode_line(event) != line:
            fault = "is not written as an event log writes it"
        if fault is not None:
            raise EventLogError(name, number, fault)
        if last is None:
            said = event.data["run_events_max"]
            events_max = min(most, said) if isinstance(said, int) else 1
        yield LoggedEvent(number, event)
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
