"""The memory of an idle and of a waiting session, and how soon one of many goes on."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns, perf_counter_ns
from typing import Final

from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.bench.memory import pss_kb
from rlm_wasm.errors import InternalError
from rlm_wasm.ids import SessionId
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import AnswerRequest, Done, Open, Report, Requested, StartCell
from rlm_wasm.vm.session import Session, drive

_WAITING: Final = 10_000
_WAITING_QUICK: Final = 200
_IDLE: Final = 1_000
_SAMPLE: Final = 20
# Prime, so that one session after another from all over the crowd is resumed.
_STRIDE: Final = 7_919
# Mappings left for everything else in the process.
_MAPS_RESERVE: Final = 1_500
_SECONDS_MAX: Final = 300.0
_CELL: Final = "while True: llm_query('?')"
_ANSWER: Final = b'{"status":"completed","text":"ok"}'


class DensityBench:
    """Measurements of many sessions at once, under the policy's limits."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._policy = policy
        self._quick = quick
        self._both: tuple[Measurement, Measurement] | None = None

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {
            "idle_pss_kb": self._idle,
            "suspended_10k_kb_each": lambda: self._suspended()[0],
            "resume_us": lambda: self._suspended()[1],
        }

    def _idle(self) -> Measurement:
        count = _IDLE // 10 if self._quick else _IDLE
        loaded = load_guest_program()
        sessions: list[Session] = []

        def make() -> None:
            session = Session(
                loaded.program,
                loaded.facts,
                self._policy.session_limits(),
                self._policy.boundary,
                os.urandom,
            )
            sessions.append(session)
            if drive(session.run(Cell("1+1", self._policy.cell))).result != b"2":
                raise InternalError("1+1 is not 2")

        try:
            for _ in range(_SAMPLE):  # what all sessions share is not the cost of one
                make()
            before = pss_kb()
            for _ in range(count):
                make()
            after = pss_kb()
        finally:
            for session in sessions:
                session.close()
        return Measurement("idle_pss_kb", (after - before) / count, "kb", count, "after the first cell, 1+1")

    def _suspended(self) -> tuple[Measurement, Measurement]:
        """Take both figures of one crowd, once."""
        if self._both is None:
            crowd = _IdleSessions(self._policy)
            try:
                self._both = self._measure(crowd)
            finally:
                crowd.close()
        return self._both

    def _measure(self, crowd: _IdleSessions) -> tuple[Measurement, Measurement]:
        maps_before = _maps()
        crowd.grow(_SAMPLE)
        maps_each = -(-(_maps() - maps_before) // _SAMPLE)
        wanted = _WAITING_QUICK if self._quick else _WAITING
        allowed = _maps_max()
        count = min(wanted, (allowed - _maps() - _MAPS_RESERVE) // maps_each)
        if count < _SAMPLE:
            raise InternalError(f"vm.max_map_count is {allowed}: too few mappings to measure many sessions")
        before = pss_kb()
        crowd.grow(count)
        each = (pss_kb() - before) / count
        times = crowd.resume(100 if self._quick else 2_000)
        note = f"{count} sessions in one worker, {maps_each} mappings each, vm.max_map_count {allowed}"
        return (
            Measurement("suspended_10k_kb_each", each, "kb", count, note),
            Measurement(
                "resume_us",
                statistics.median(times) / 1e3,
                "us",
                len(times),
                f"from the answer to the guest's next request, {count} others waiting; "
                f"p99 {times[len(times) * 99 // 100] / 1e3:.0f} us",
            ),
        )


class _IdleSessions:
    """Sessions of one worker loop, all waiting for the host to answer."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._loop = WorkerLoop(clock=monotonic_ns)
        self._loop.start()
        self._size = 0
        self._waiting = 0
        self._asked_ns = 0
        self._failure: str | None = None
        self._news = threading.Condition()

    def grow(self, count: int) -> None:
        """Add sessions and wait until every one of them waits."""
        cell = Cell(_CELL, self._policy.cell)
        for number in range(self._size, self._size + count):
            session = SessionId(number)
            self._loop.submit(
                Open(
                    session,
                    self._policy.session_limits(),
                    self._policy.boundary,
                    os.urandom,
                    self._note,
                )
            )
            self._loop.submit(StartCell(session, cell))
        self._size += count
        self._wait_for(self._size)

    def resume(self, samples: int) -> list[int]:
        """Answer one session after the other; return the sorted times, in ns, until it waits again."""
        times = []
        for sample in range(samples):
            wanted = self._waiting + 1  # before: it may wait again before this thread looks
            began = perf_counter_ns()
            self._loop.submit(AnswerRequest(SessionId(sample * _STRIDE % self._size), _ANSWER))
            self._wait_for(wanted)
            times.append(self._asked_ns - began)
        return sorted(times)

    def close(self) -> None:
        """End every session."""
        self._loop.stop()

    def _note(self, report: Report) -> None:
        now = perf_counter_ns()
        with self._news:
            match report:
                case Requested():
                    self._waiting += 1
                    self._asked_ns = now
                case Done(error=None, result=None):
                    return  # opened
                case Done():
                    self._failure = f"{report.error or report.result}"
            self._news.notify()

    def _wait_for(self, count: int) -> None:
        with self._news:
            done = self._news.wait_for(lambda: self._failure or self._waiting >= count, _SECONDS_MAX)
        if self._failure or not done:
            raise InternalError(f"the sessions do not all wait: {self._failure or 'too slow'}")


def _maps() -> int:
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def _maps_max() -> int:
    return int(Path("/proc/sys/vm/max_map_count").read_text())
