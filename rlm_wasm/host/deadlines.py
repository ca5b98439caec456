"""The deadlines of everything a worker has to do: a pure decision over the time that the host saw pass.

A worker that answers pings lives. That it will ever end a cell, close a session or read what it was sent
does not follow: it may belong to an attacker. So everything that a host waits for has terms of the host's
own, from the policy, and a worker that breaks them is ended.

Terms are in the worker's share of time. One thread runs all sessions of a worker in turns, so where several
are served at once each of them gets a part, and is expected to have had less. What the host can see beside
the wall's clock is the CPU time of the process: a worker that owes something and does nothing for it lies or
stands still; one that used all the time it was allowed had it; one that got little of a busy machine is
given a few times as long, and no more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from rlm_wasm.host.cell_accounting import CellCharge
from rlm_wasm.limits import CellLimits, SessionLimits
from rlm_wasm.protocol.cell import CANCEL_GRACE_NS, setup_limits

_MS: Final = 1_000_000
# Memory that a worker copies, and bytes that it reads between two turns, in a millisecond: a fraction of
# what was measured.
COPIED_BYTES_PER_MS: Final = 100_000
READ_BYTES_PER_MS: Final = 10_000
# A session's slices are of one size in fuel. In time a neighbour's may be so many times as long.
SLICE_RATIO: Final = 8
# A cell's time is the wall's, wherever the CPU was meanwhile; copying takes as long as the machine makes it.
PATIENCE: Final = 10
PATIENCE_WITH_CELLS: Final = 3
# Less CPU time than this part of the time that passed: it does nothing, or nothing but answer pings.
_STILL_PART: Final = 100


class Owed(enum.Enum):
    """What a host waits for."""

    OPENING = "make a session"
    LOADING = "load an input"
    REBASING = "take a session's state as its origin"
    IMAGING = "hand out a snapshot"
    RUNNING = "end a cell"
    INTERRUPTED = "end a cell that was interrupted"
    STOPPING = "end what it was told to end"
    CLOSING = "close a session"
    READING = "read what it was sent"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the terms of one deadline are made of. `bytes_max`: what has to be read or copied."""

    grace_ms: int
    session: SessionLimits | None = None
    cell: CellLimits | None = None
    bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How much of its share of time an honest worker needs at most, and how much without doing anything.

    `neighbours`: how many times a session's own turns those of each other one may take meanwhile.
    """

    allowed_ms: int
    idle_ms: int
    patience: int = PATIENCE
    neighbours: int = 1


def _copying(bounds: Bounds) -> Terms:
    return Terms(bounds.grace_ms + bounds.bytes_max // COPIED_BYTES_PER_MS, bounds.grace_ms)


def _copying_memory(bounds: Bounds) -> Terms:
    # Out of the guest, and into a file.
    return _copying(replace(bounds, bytes_max=2 * _memory_bytes(bounds)))


def _loading(bounds: Bounds) -> Terms:
    copying = _copying(bounds)
    # Finalisers of earlier cells may run in it, and it may be the text of a value, which the guest reads.
    allowed_ms = setup_limits(bounds.bytes_max).wall_ms_max + copying.allowed_ms
    return Terms(allowed_ms, copying.idle_ms, PATIENCE_WITH_CELLS, SLICE_RATIO)


def _running(bounds: Bounds) -> Terms:
    assert bounds.cell is not None
    return _cell(bounds, bounds.cell.wall_ms_max)


def _interrupted(bounds: Bounds) -> Terms:
    return _cell(bounds, CANCEL_GRACE_NS // _MS)


def _cell(bounds: Bounds, wall_ms: int) -> Terms:
    cell, session = bounds.cell, bounds.session
    assert cell is not None
    assert session is not None
    idle_ms = cell.sleep_ms_max + bounds.grace_ms
    # The state before it is kept, and gone back to.
    copied_ms = 2 * session.checkpoint_bytes_max // COPIED_BYTES_PER_MS
    return Terms(wall_ms + idle_ms + copied_ms, idle_ms, PATIENCE_WITH_CELLS, SLICE_RATIO)


def _next_turn(bounds: Bounds) -> Terms:
    # The turn before it may copy a memory, and so may its own.
    return _copying(replace(bounds, bytes_max=2 * _memory_bytes(bounds)))


def _reading(bounds: Bounds) -> Terms:
    # Between any two turns, whoever they are of.
    allowed_ms = bounds.grace_ms + bounds.bytes_max // READ_BYTES_PER_MS
    return Terms(allowed_ms, bounds.grace_ms, neighbours=0)


def _memory_bytes(bounds: Bounds) -> int:
    assert bounds.session is not None
    return bounds.session.memory_bytes_max


TERMS: Final[dict[Owed, Callable[[Bounds], Terms]]] = {
    Owed.OPENING: _copying_memory,
    Owed.LOADING: _loading,
    Owed.REBASING: _copying_memory,
    Owed.IMAGING: _copying_memory,
    Owed.RUNNING: _running,
    Owed.INTERRUPTED: _interrupted,
    Owed.STOPPING: _next_turn,
    Owed.CLOSING: _next_turn,
    Owed.READING: _reading,
}


@dataclass(slots=True)
class Deadline:
    """Something owed. `charge` is the watch of a cell, which stands while the guest waits for its host."""

    owed: Owed
    terms: Terms
    began_ns: int
    charge: CellCharge | None = None
    # How far its time was counted, by its own watch.
    counted_ns: int = 0
    # Its share of what passed, of the wall's time and of the process's, and for how long nothing was done.
    share_ns: int = 0
    share_cpu_ns: int = 0
    idle_ns: int = 0

    def ran_ns(self, now_ns: int) -> int:
        """How long the worker has had for it."""
        return now_ns - self.began_ns if self.charge is None else self.charge.ran_ns(now_ns)

    def passed(self, wall_ns: int, cpu_ns: int | None, served: int) -> None:
        """Note time in which a worker served so many sessions. `cpu_ns`: what it used; None: unknown."""
        part = 1 + self.terms.neighbours * max(0, served - 1)
        self.share_ns += wall_ns // part
        if cpu_ns is None:
            return
        # It has one thread; more was used before this was owed.
        used_ns = min(cpu_ns, wall_ns)
        self.share_cpu_ns += used_ns // part
        self.idle_ns = self.idle_ns + wall_ns if used_ns * _STILL_PART < wall_ns else 0

    @property
    def overdue(self) -> bool:
        """Whether an honest worker would have paid."""
        terms = self.terms
        if self.idle_ns >= terms.idle_ms * _MS:
            return True
        allowed_ns = terms.allowed_ms * _MS
        if self.share_ns < allowed_ns:
            return False
        return self.share_cpu_ns >= allowed_ns or self.share_ns >= terms.patience * allowed_ns


class Deadlines:
    """The host's books of what one worker owes: at most one thing for each session, and one for the socket.

    `grace_ms` is added to all terms: for how long a worker may give no sign of life.
    """

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms: Final = grace_ms
        self._deadlines: dict[int, Deadline] = {}
        # Those that were paid since the last tick had a share of that time, too.
        self._served: set[int] = set()
        self._cpu_ns: int | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def owed(self, debtor: int) -> Owed | None:
        """Return what is owed to a session, if anything."""
        deadline = self._deadlines.get(debtor)
        return None if deadline is None else deadline.owed

    def owe(
        self,
        debtor: int,
        owed: Owed,
        now_ns: int,
        *,
        session: SessionLimits | None = None,
        charge: CellCharge | None = None,
        bytes_max: int = 0,
    ) -> None:
        """Note that the worker owes something from now on, instead of what it owed to this session before."""
        cell = None if charge is None else charge.limits
        terms = TERMS[owed](Bounds(self._grace_ms, session, cell, bytes_max))
        deadline = Deadline(owed, terms, now_ns, charge)
        deadline.counted_ns = deadline.ran_ns(now_ns)
        self._deadlines[debtor] = deadline

    def interrupted(self, debtor: int, now_ns: int, session: SessionLimits) -> None:
        """Note that a cell was asked to end; the first time counts."""
        deadline = self._deadlines.get(debtor)
        if deadline is not None and deadline.owed is Owed.RUNNING:
            self.owe(debtor, Owed.INTERRUPTED, now_ns, session=session, charge=deadline.charge)

    def paid(self, debtor: int) -> None:
        """Note that nothing is owed to a session any more."""
        if self._deadlines.pop(debtor, None) is not None:
            self._served.add(debtor)

    def tick(self, now_ns: int, cpu_ns: int | None, *, late_ns: int = 0) -> Owed | None:
        """Count the time since the last tick; return what is overdue, if anything.

        `cpu_ns` is all that the process has used. `late_ns` of the time the host itself stood still, and
        whatever stopped it may have stopped the worker.
        """
        used_ns = None if cpu_ns is None or self._cpu_ns is None else cpu_ns - self._cpu_ns
        self._cpu_ns = cpu_ns
        passed: list[tuple[Deadline, int]] = []
        for deadline in self._deadlines.values():
            ran_ns = deadline.ran_ns(now_ns)
            if ran_ns > deadline.counted_ns:
                passed.append((deadline, max(0, ran_ns - deadline.counted_ns - late_ns)))
            deadline.counted_ns = ran_ns
        served = len(passed) + len(self._served - self._deadlines.keys())
        self._served.clear()
        for deadline, wall_ns in passed:
            deadline.passed(wall_ns, used_ns, served)
        return next((deadline.owed for deadline in self._deadlines.values() if deadline.overdue), None)
