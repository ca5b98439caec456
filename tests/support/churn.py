"""Sessions opened, used, trapped, interrupted, forked, restored, loaded and closed in random order.

    python -m tests.support.churn SESSIONS [SEED]

Afterwards descriptors, mappings and resident memory have to be where they began. The same seed takes the
same steps.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from time import monotonic, monotonic_ns
from typing import Any, Final

from rlm_wasm.errors import CellCancelled, GuestError
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import (
    Close,
    InterruptOperation,
    Open,
    Requested,
    StartCell,
    Stop,
    TakeSnapshot,
)
from rlm_wasm.results import CellResult
from rlm_wasm.vm import operations
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.steps import Step
from tests.support.host_health import Health, health
from tests.support.process_guest import process_guest
from tests.support.sandbox_facts import MIB, boundary_limits, cell_limits, echo, session_limits
from tests.support.worker_facts import Seat

LIVE_MAX: Final = 12
KEPT_MAX: Final = 6
WAITING_MAX: Final = 6
CHECKPOINT_BYTES: Final = 16 * MIB
# Before the first look: code pages faulted in, allocator arenas made, every way walked. Resident memory is
# level after some thousand sessions; a short run allows for what is missing.
WARM_UP: Final = 300
WARM_UP_LONG: Final = 5_000
# What an allocator may keep. Over 100,000 sessions it is 168 bytes for each.
RSS_SLACK_KB: Final = 16 * 1024

_LOST: Final = {
    "import os; os.abort()": "guest_trap",
    "import os; os._exit(1)": "guest_trap",
    "import _rlm; _rlm.emit(99, b'x')": "boundary_violation",
    "while True:\n try:\n  while True: pass\n except BaseException: pass": "fuel_exhausted",
    "import time\nwhile True:\n try: time.sleep(10**6)\n except BaseException: pass": "deadline_exceeded",
}
_KEPT: Final = {
    "x = [1] * 1000; len(x)": "completed",
    "print('hello')": "completed",
    "llm_query('hello')": "completed",
    "llm_query_batched(['a', 'b'])": "completed",
    "b = bytearray(1_000_000); b[::4096] = b'x' * len(b[::4096])": "completed",
    "1/0": "guest_exception",
    "while True: pass": "fuel_exhausted",
    "import time; time.sleep(10**6)": "deadline_exceeded",
    "bytearray(10**9)": "memory_exceeded",
    "while True: print('y' * 1000)": "output_exceeded",
}
_INPUTS: Final = ("text" * 20_000, "漢字🙂" * 5_000, b"\0\1\2" * 30_000, "")


@dataclass
class _Living:
    """One session, what it can go back to, and the operation it is in the middle of."""

    session: Session
    origin: MemorySnapshot | None
    back: MemorySnapshot | None = None
    operation: Generator[Step, bytes | None, Any] | None = None


@dataclass(frozen=True)
class Figures:
    """What the kernel says about this process."""

    health: Health
    rss_kb: int

    @classmethod
    def now(cls) -> Figures:
        gc.collect()
        with open("/proc/self/status") as file:
            rss = next(line for line in file if line.startswith("VmRSS:"))
        return cls(health(), int(rss.split()[1]))

    def __str__(self) -> str:
        return f"{len(self.health.fds)} fds, {self.health.maps} mappings, {self.rss_kb} kB resident"


@dataclass
class Churn:
    """A run of `count` sessions. `seed` decides every step."""

    count: int
    seed: int
    # Called with the number of sessions so far, at each thousandth.
    progress: Callable[[int], None] = lambda opened: None
    steps: Counter[str] = field(default_factory=Counter)
    # Off where no thread can be started, and no memory file be made to lay a snapshot out in: a locked-down
    # process. Tests of the pool do that, whose host lends one.
    threads: bool = True

    def run(self) -> None:
        """Do it; nothing is open afterwards."""
        self._random = random.Random(self.seed)
        self._loaded = process_guest()
        self._opened = 0
        self._living: list[_Living] = []
        self._kept: list[MemorySnapshot] = []
        self._loop = WorkerLoop(clock=monotonic_ns)
        if self.threads:
            self._loop.start()
        self._waiting: list[Seat] = []
        actions: dict[Callable[[], bool], int] = {
            self._open: 160, self._use: 160, self._lose: 60, self._load: 50, self._begin: 80, self._go_on: 40,
            self._interrupt: 20, self._snapshot: 50, self._restore: 40, self._close: 130,
            self._rebase: 3 if self.threads else 0, self._in_the_loop: 40 if self.threads else 0,
        }  # fmt: skip
        told = 0
        try:
            while self._opened < self.count:
                action = self._random.choices(list(actions), list(actions.values()))[0]
                self.steps[action.__name__.lstrip("_")] += action()
                if self._opened // 1000 > told:
                    told = self._opened // 1000
                    self.progress(self._opened)
        finally:
            while self._living:
                self._close()
            self._kept.clear()
            if self.threads:
                self._loop.stop()
            self._waiting.clear()

    # -- sessions of this thread; False where there is none to do it with ------------------------------

    def _open(self) -> bool:
        if len(self._living) >= LIVE_MAX:
            self._close()
        start = self._random.choice(self._kept) if self._kept and self._random.random() < 0.4 else None
        session = Session(
            self._loaded.program, self._loaded.facts, session_limits(), boundary_limits(), os.urandom,
            start=start,
        )  # fmt: skip
        self._opened += 1
        self._living.append(_Living(session, start))
        return True

    def _idle(self) -> _Living | None:
        idle = [living for living in self._living if living.operation is None and not living.session.lost]
        return self._random.choice(idle) if idle else None

    def _use(self) -> bool:
        if (living := self._idle()) is None:
            return False
        source, outcome = self._random.choice(list(_KEPT.items()))
        result = drive(operations.run_cell(living.session, _cell(source), 0), echo)
        assert isinstance(result, CellResult)
        assert (result.outcome, result.session_state) == (outcome, "alive"), (source, result)
        return True

    def _lose(self) -> bool:
        if (living := self._idle()) is None:
            return False
        source, outcome = self._random.choice(list(_LOST.items()))
        checkpoint = CHECKPOINT_BYTES if self._random.random() < 0.5 else 0
        result = drive(operations.run_cell(living.session, _cell(source), checkpoint), echo)
        assert isinstance(result, CellResult)
        assert result.outcome == outcome, (source, result)
        assert result.session_state is not SessionState.ALIVE, (source, result)
        assert living.session.lost == (result.session_state is SessionState.LOST)
        return True

    def _load(self) -> bool:
        if (living := self._idle()) is None:
            return False
        drive(living.session.load("context", self._random.choice(_INPUTS)))
        return True

    def _begin(self) -> bool:
        """Start a cell and leave it where it is: in a slice, or waiting for the host."""
        if (living := self._idle()) is None:
            return False
        source = self._random.choice(("while True: pass", "llm_query('?')", "while True: llm_query('?')"))
        living.operation = living.session.run(_cell(source))
        next(living.operation)
        return True

    def _busy(self) -> _Living | None:
        busy = [living for living in self._living if living.operation is not None]
        return self._random.choice(busy) if busy else None

    def _go_on(self) -> bool:
        """One step further in a cell, by an answer or by an error of the host."""
        if (living := self._busy()) is None or living.operation is None:
            return False
        try:
            if self._random.random() < 0.3:
                living.operation.throw(CellCancelled("enough"))
            else:
                living.operation.send(b'{"status":"completed","text":"ok"}')
        except (StopIteration, GuestError):
            living.operation = None
        return True

    def _interrupt(self) -> bool:
        if (living := self._busy()) is None or living.operation is None:
            return False
        living.session.interrupt()
        operation, living.operation = living.operation, None
        drive(_resumed(operation), echo)
        return True

    def _snapshot(self) -> bool:
        if (living := self._idle()) is None:
            return False
        living.back = drive(living.session.snapshot())
        # Now and then for forks: laying a snapshot out copies the guest's whole memory. Never a fork's
        # own, so that layers do not pile up without end.
        lays_out = self.threads and self._random.random() < 0.15
        if living.back is not None and living.origin is None and lays_out:
            self._kept.append(living.back)
            del self._kept[:-KEPT_MAX]
        return True

    def _restore(self) -> bool:
        ready = [living for living in self._living if living.back is not None and living.operation is None]
        if not ready:
            return False
        living = self._random.choice(ready)
        assert living.back is not None
        living.session.restore(living.back)
        drive(living.session.run(_cell("1 + 1")))
        return True

    def _rebase(self) -> bool:
        if (living := self._idle()) is None:
            return False
        drive(living.session.rebase())
        living.back = None
        living.origin = drive(living.session.snapshot())
        return True

    def _close(self) -> bool:
        """Close a session, in the middle of its cell if that is where it is."""
        if not self._living:
            return False
        living = self._living.pop(self._random.randrange(len(self._living)))
        if living.operation is not None:
            living.operation.close()
        living.session.close()
        return True

    # -- sessions of a worker's thread --------------------------------------------------------------

    def _in_the_loop(self) -> bool:
        seat = Seat(self._loop, self._opened + 1)
        assert seat.done().error is None
        self._opened += 1
        match self._random.randrange(5):
            case 0:
                assert seat.result("6 * 7") == "42"
                seat.close()
            case 1:  # a trap, gone back from, and a fork of what is left
                self._loop.submit(StartCell(seat.number, _cell("import os; os.abort()"), CHECKPOINT_BYTES))
                done = seat.done().result
                assert done is not None
                assert done.session_state is SessionState.RESTORED
                self._loop.submit(TakeSnapshot(seat.number))
                snapshot = seat.done().snapshot
                seat.close()
                fork = Seat.__new__(Seat)
                fork.__dict__.update(seat.__dict__, number=-seat.number)
                self._opened += 1
                self._loop.submit(
                    Open(
                        fork.number,
                        session_limits(),
                        boundary_limits(),
                        os.urandom,
                        fork.reports.put,
                        snapshot,
                    )
                )
                assert fork.done().error is None
                fork.close()
            case 2:  # stopped while it waits for the host
                seat.start("llm_query('?')")
                seat.requested()
                self._loop.submit(Stop(seat.number, CellCancelled("enough")))
                done = seat.done().result
                assert done is None or done.session_state is not SessionState.ALIVE
                seat.close()
            case 3:  # interrupted while it runs
                seat.start("while True: pass", fuel_max=10**12)
                self._loop.submit(InterruptOperation(seat.number))
                ended = seat.done().result
                assert ended is not None
                assert ended.outcome == "cancelled"
                seat.close()
            case 4:  # left waiting, closed much later in the middle of its call
                seat.start("llm_query('?')")
                assert isinstance(seat.next(), Requested)
                self._waiting.append(seat)
                if len(self._waiting) > WAITING_MAX:
                    self._loop.submit(Close(self._waiting.pop(0).number))
        return True


def _cell(source: str) -> Cell:
    # Fuel for some milliseconds: the kinds of end count here, not how long they take.
    return Cell(source, cell_limits(fuel_max=24_000_000, stdout_bytes_max=20_000), report_variables=True)


def _resumed(operation: Generator[Step, bytes | None, Any]) -> Generator[Step, bytes | None, Any]:
    """Go on with an operation that has already yielded once; it may wait for an answer."""
    try:
        step = operation.send(b'{"status":"completed","text":"ok"}')
        while True:
            response = yield step
            step = operation.send(response)
    except StopIteration as stop:
        return stop.value


def soak(
    count: int, seed: int, *, warm_up: int = WARM_UP, progress: Callable[[int], None] = lambda opened: None
) -> tuple[Figures, Figures, Counter[str]]:
    """Warm up, look, run `count` sessions, look again."""
    Churn(warm_up, seed + 1).run()
    before = Figures.now()
    churn = Churn(count, seed, progress)
    churn.run()
    return before, Figures.now(), churn.steps


def main() -> int:
    """StartCell it as a command; 1 if anything was left behind."""
    from tests.support.host_health import assert_same

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(2**32)
    print(f"{count} sessions, seed {seed}", flush=True)
    began = monotonic()

    def tell(opened: int) -> None:
        if opened // 1000 % 10 == 0:
            print(f"{opened:>8}: {Figures.now()}, {monotonic() - began:.0f} s", flush=True)

    before, after, steps = soak(count, seed, warm_up=WARM_UP_LONG, progress=tell)
    print(f"before: {before}\nafter:  {after}\n{monotonic() - began:.0f} s; {dict(steps)}")
    try:
        assert_same(before.health, after.health)
    except AssertionError as error:
        print(f"left behind: {error}")
        return 1
    return int(after.rss_kb - before.rss_kb > RSS_SLACK_KB)


if __name__ == "__main__":
    raise SystemExit(main())
