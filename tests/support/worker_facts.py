"""A worker loop driven from a test's own thread, and what its sessions report."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic_ns
from typing import Any

from rlm_wasm.ids import SessionId
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import AnswerRequest, Close, Done, Load, Open, Report, Requested, StartCell
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

SECONDS_MAX = 30


class Seat:
    """One session of a loop: sends its commands, takes its reports in order."""

    def __init__(self, loop: WorkerLoop, number: int, **limits: Any) -> None:
        self.loop = loop
        self.number = SessionId(number)
        self.reports: queue.Queue[Report] = queue.Queue()
        loop.submit(
            Open(self.number, session_limits(**limits), boundary_limits(), os.urandom, self.reports.put)
        )

    def next(self) -> Report:
        return self.reports.get(timeout=SECONDS_MAX)

    def done(self) -> Done:
        report = self.next()
        assert isinstance(report, Done), report
        return report

    def requested(self) -> bytes:
        report = self.next()
        assert isinstance(report, Requested), report
        return report.frame

    def start(self, source: str, **limits: int) -> None:
        self.loop.submit(StartCell(self.number, Cell(source, cell_limits(**limits))))

    def load(self, name: str, value: str | bytes) -> None:
        self.loop.submit(Load(self.number, name, value))

    def respond(self, text: str) -> None:
        self.loop.submit(AnswerRequest(self.number, b'{"status":"completed","text":"%s"}' % text.encode()))

    def close(self) -> None:
        self.loop.submit(Close(self.number))

    def result(self, source: str) -> str | None:
        """StartCell a cell that asks for nothing, to its end."""
        self.start(source)
        done = self.done()
        assert done.error is None, done.error
        assert done.result is not None
        return done.result.result


@contextmanager
def worker_loop(**options: int) -> Iterator[Callable[..., Seat]]:
    """Start a loop; yield a function that opens a session in it; stop it."""
    loop = WorkerLoop(**options, clock=monotonic_ns)
    loop.start()
    numbers = iter(range(1, 1_000_000))

    def seat(**limits: Any) -> Seat:
        made = Seat(loop, next(numbers), **limits)
        opened = made.done()
        if opened.error is not None:
            raise opened.error
        return made

    seat.loop = loop  # type: ignore[attr-defined]
    try:
        yield seat
    finally:
        loop.stop()
