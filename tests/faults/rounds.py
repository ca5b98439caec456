"""Rounds over a pool: sessions are in the middle of something, one fault comes, everything has to be told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.placement import Isolation
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.process_handle import ProcessHandle
from tests.faults.leftovers import Seen, nothing_left, parent_of
from tests.faults.steps import LOST, PLAIN, REFUSED, STEPS, Counted, Round, outcome_of, run
from tests.faults.strikes import STRIKES, WEIGHTS, Strike
from tests.support.pool_facts import alive, pool_limits, until

HANG_MS: Final = 500
# What a machine may be late by beside that, also a busy one; the report tells what it really took.
TOLD_SECONDS_MAX: Final = 15.0
# Nothing takes so long unless somebody waits for ever.
STUCK_SECONDS: Final = 30.0
ROUNDS_A_POOL: Final = 20
_BEAT_SECONDS: Final = 0.05
# More than any fault of ours keeps the event loop from running.
_STOPPED_SECONDS: Final = 2.0
_LOST_WORDS: Final = {error.__name__ for error in LOST} | {"worker_lost"}
_REFUSED_WORDS: Final = _LOST_WORDS | {error.__name__ for error in REFUSED} | {"memory_exceeded"}
ISOLATIONS: Final[tuple[Isolation, ...]] = ("shared", "session", "tenant")


@dataclass
class Tally:
    """What was done and what it came to."""

    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    # Seconds from the fault to the end of an operation that it ended, and to the next cell that worked.
    told: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    lost_again: int = 0
    # Seconds in which this process did not run at all: somebody stopped it, and nobody was late.
    stopped: float = 0.0
    # A stopped worker that somebody else let go on.
    resumed: int = 0

    @property
    def count(self) -> int:
        """How many faults there were; operations that ended before theirs came do not count."""
        return -self.resumed + sum(
            number for kind, number in self.faults.items() if not kind.endswith("none")
        )


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@dataclass
class _Struck:
    """The fault of one round: when it came and whom it hit."""

    strike: Strike
    at: float = 0.0
    connection: Connection | None = None
    done: bool = False
    # Whether a session that was not closed yet was of the worker that was hit.
    used: bool = False
    children: list[ProcessHandle] = field(default_factory=list)
    # The process that each worker of the round's sessions was forked from.
    parents: dict[int, int] = field(default_factory=dict)

    def hit(self, session: Counted) -> bool:
        """Whether the fault, or one before it, may have reached what the session was doing."""
        return self.struck_by(session) or self._orphaned(session) or self._just_forked(session)

    def _orphaned(self, session: Counted) -> bool:
        """Whether its worker was forked by a zygote that is gone: one that an earlier fault had stopped.

        A zygote that stands still is ended when it is to fork, and the kernel ends its workers after it.
        """
        parent = self.parents.get(session._connection.child.pid, 0)  # type: ignore[attr-defined]
        return parent < 0 or (parent > 0 and _state(parent) in "ZX")

    def _just_forked(self, session: Counted) -> bool:
        """Whether its worker came in the round of a zygote's fault: perhaps from that one, just before."""
        pid = session._connection.child.pid  # type: ignore[attr-defined]
        return self.done and self.strike.hits == "zygote" and pid not in self.parents

    def struck_by(self, session: Counted) -> bool:
        """Whether this fault may have reached it."""
        if self.strike.hits == "zygote":  # a worker that came later has another one
            return any(session._connection.child is child for child in self.children)  # type: ignore[attr-defined]
        return self.strike.hits == "worker" and session._connection is self.connection

    def resumed(self, session: Counted) -> bool:
        """Whether the worker was stopped and is not: only somebody else can have done that."""
        return (
            self.strike.name in ("stop", "deaf")
            and session._connection is self.connection
            and _state(self.connection.child.pid) not in "TZX"
        )


async def watch_the_clock(tally: Tally) -> None:
    """Note for how long this process was stopped from outside, until cancelled."""
    last = time.monotonic()
    while True:
        await anyio.sleep(_BEAT_SECONDS)
        now = time.monotonic()
        if now - last > _STOPPED_SECONDS:
            tally.stopped += now - last
        last = now


@contextmanager
def counted() -> Iterator[None]:
    """Have pools make sessions that count what they were told."""
    with patch("rlm_wasm.host.pool.ProcessSession", Counted):
        yield


async def rounds(tally: Tally, seed: int, count: int, *, strikes: tuple[Strike, ...] = STRIKES) -> None:
    """Open a pool and let `count` faults come, the last while it closes. Nothing may be left."""
    async with nothing_left() as seen:
        with counted():
            await _rounds(tally, Random(seed), count, strikes, seen)


async def _rounds(tally: Tally, random: Random, count: int, strikes: tuple[Strike, ...], seen: Seen) -> None:
    isolation = random.choice(ISOLATIONS)
    limits = pool_limits(
        isolation, workers_max=2 if isolation == "shared" else 8, hang_ms_max=HANG_MS, heartbeat_ms=50
    )
    # What goes on while the pool closes is not of the pool's task group.
    async with anyio.create_task_group() as outside:
        outside.start_soon(watch_the_clock, tally)
        async with WorkerPool(limits) as pool:
            image = await _image(pool)
            for _ in range(count - 1):
                await _OneFault(pool, random, _drawn(random, strikes), image, tally, seen).whole()
            last = _OneFault(pool, random, _drawn(random, strikes), image, tally, seen)
            await last.begin(outside)
            await until(lambda: last.struck.done or last.all_told)
            began = time.monotonic()
        took = time.monotonic() - began
        assert took < TOLD_SECONDS_MAX + tally.stopped, f"{last.about}: closing took {took:.2f} s"
        await until(lambda: last.all_told, TOLD_SECONDS_MAX)
        last.judge(closed=True)
        outside.cancel_scope.cancel()


def _drawn(random: Random, strikes: tuple[Strike, ...]) -> Strike:
    weights = [weight for strike, weight in zip(STRIKES, WEIGHTS, strict=True) if strike in strikes]
    return random.choices([strike for strike in STRIKES if strike in strikes], weights)[0]


async def _image(pool: WorkerPool) -> Any:
    async with await pool.session(pool._limits.session, pool._limits.boundary) as session:
        return await session.snapshot()


class _OneFault:
    """Up to three operations, a fault, and what is expected of them all."""

    def __init__(
        self, pool: WorkerPool, random: Random, strike: Strike, image: Any, tally: Tally, seen: Seen
    ) -> None:
        self.struck = _Struck(strike)
        self._pool, self._random, self._tally, self._seen = pool, random, tally, seen
        self._round = Round(pool, random, self._strike_now, image)
        self._drawn = [random.choice(list(STEPS)) for _ in range(random.randint(1, 3))]
        self.about = f"{strike.name} while {self._drawn} in {pool._limits.isolation!r}"
        self._told: list[tuple[str, Counted, str, float]] = []

    @property
    def all_told(self) -> bool:
        """Whether every operation has ended."""
        return len(self._told) == len(self._drawn)

    def _strike_now(self, session: Any) -> None:
        struck, connections = self.struck, self._pool.connections
        if struck.done:
            return
        self._seen.look()
        connection = None if session is None else session._connection
        if connection is None or (self._random.random() < 0.2 and connections):
            connection = self._random.choice(connections) if connections else None
        struck.connection = connection
        struck.used = any(
            session._connection is connection and not session._closed for session in self._round.sessions
        )
        struck.children = [connection.child for connection in connections]
        struck.done = struck.strike.strike(self._pool, connection)
        struck.at = time.monotonic()

    async def whole(self) -> None:
        """Let it come, and see that the pool serves as before."""
        with anyio.move_on_after(STUCK_SECONDS) as stuck:
            async with anyio.create_task_group() as tasks:
                await self.begin(tasks)
            self.judge(closed=False)
            await _afterwards(self._round, self._tally, self.struck, self.about)
        assert not stuck.cancelled_caught, f"stuck: {self.about}, told: {[(t[0], t[2]) for t in self._told]}"
        struck, connection = self.struck, self.struck.connection
        if (
            struck.done
            and struck.strike.deadly
            and struck.strike.hits == "worker"
            and connection is not None
            and struck.used
        ):
            # One that stood still with nothing to do is found when it gets something. Whoever reaps may stand
            # still as well, so that only at the end no zombie may be left.
            pid = connection.child.pid
            await until(lambda: _state(pid) in "ZX" or connection.lost is None)
            assert connection.lost is not None or self._tally.resumed, f"{self.about}: the worker lives on"

    async def begin(self, tasks: TaskGroup) -> None:
        """Start the operations; one of them lets the fault come."""
        sessions = [await _ready(self._round) for _ in self._drawn]
        pids = [session._connection.child.pid for session in sessions]  # type: ignore[attr-defined]
        self.struck.parents = {pid: parent_of(pid) for pid in pids}
        for step, session in zip(self._drawn, sessions, strict=True):
            tasks.start_soon(self._do, step, session)

    async def _do(self, step: str, session: Counted) -> None:
        outcome = await outcome_of(STEPS[step](self._round, session))
        self._told.append((step, session, outcome, time.monotonic()))

    def judge(self, *, closed: bool) -> None:
        """Look at how each operation ended."""
        self._tally.faults[self.struck.strike.name if self.struck.done else "none"] += 1
        for step, session, outcome, at in self._told:
            _judge(self._tally, f"{self.about}: {step}", self.struck, session, outcome, at, close=closed)
        for session in self._round.sessions:
            told = f"{session.begun} begun, {session.ended} ended"
            assert session.begun == session.ended, f"{self.about}: {told}"


async def _ready(round: Round) -> Counted:
    """Return a session. What an idle worker met before is found only now, once for each: then another one."""
    for _ in range(4):
        try:
            return await round.session()
        except REFUSED:
            continue
    raise AssertionError("four workers in a row made no session")


def _judge(
    tally: Tally, about: str, struck: _Struck, session: Counted, outcome: str, at: float, *, close: bool
) -> None:
    tally.outcomes[outcome] += 1
    if outcome in PLAIN:
        return
    if close:
        told = outcome in _REFUSED_WORDS or outcome.startswith(("UsageError", "Overloaded"))
        assert told, f"{about}: {outcome}"
        return
    refusing = struck.strike.name.startswith("no ")
    # A session that was being opened may have been in any worker.
    hit = struck.hit(session) or (struck.done and about.endswith(("opening", "forking")))
    assert hit, f"{about}: {outcome} though it was not hit"
    assert outcome in (_REFUSED_WORDS if refusing else _LOST_WORDS), f"{about}: {outcome}"
    if outcome in _LOST_WORDS:
        tally.told.append(at - struck.at)
        assert tally.told[-1] < TOLD_SECONDS_MAX + tally.stopped, (
            f"{about}: told after {tally.told[-1]:.2f} s"
        )


async def _afterwards(round: Round, tally: Tally, struck: _Struck, about: str) -> None:
    """Whoever lived lives, whoever was hit hears so, and a fresh session works. Then all is closed."""
    if struck.done and struck.strike.deadly and struck.strike.hits == "zygote":
        # The kernel ends them after it, one by one.
        await until(lambda: not any(alive(child) for child in struck.children), TOLD_SECONDS_MAX)
    for session in round.sessions:
        if session._closed:
            continue
        began = time.monotonic()
        outcome = await outcome_of(run(session, "1 + 1"))
        took = time.monotonic() - began
        assert took < TOLD_SECONDS_MAX + tally.stopped, f"{about}: a next cell took {took:.2f} s"
        lost_before = outcome.startswith("UsageError")  # a cell that was cancelled took its session along
        deadly = struck.done and struck.strike.deadly and struck.struck_by(session)
        hit = struck.hit(session)
        if deadly and outcome == "completed" and struck.resumed(session):
            tally.resumed += 1
        elif deadly:
            assert outcome in _LOST_WORDS or lost_before, f"{about}: {outcome} after a deadly fault"
        elif not hit:
            assert outcome == "completed" or lost_before, f"{about}: {outcome} in a session that was not hit"
    if struck.strike.name.startswith("no ") and struck.connection is not None:
        # What it lacks it will lack for ever; the rounds to come are about other faults.
        connection = struck.connection
        if connection.lost is None:
            connection.child.kill()
        await until(lambda: connection.lost is not None)
    began = time.monotonic()
    while True:
        try:
            async with await round.session() as fresh:
                outcome = await run(fresh, "6 * 7")
        except RlmWasmError as error:
            outcome = f"{type(error).__name__}: {error}"
        if outcome == "completed":
            break
        tally.lost_again += 1
        # A stopped worker that had nothing to do is found when it is given something.
        assert "orker" in outcome, f"{about}: a fresh session: {outcome}"
        took = time.monotonic() - began
        assert took < STUCK_SECONDS, about
    tally.fresh.append(time.monotonic() - began)
    for session in round.sessions:
        await session.aclose()
    await until(lambda: round.pool.sessions == 0, TOLD_SECONDS_MAX)
