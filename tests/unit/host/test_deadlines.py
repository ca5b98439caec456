"""What a worker owes and when it is overdue, by the time and CPU time of who shares it. Time is virtual."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from rlm_wasm.host.cell_accounting import CellCharge
from rlm_wasm.host.deadlines import (
    COPIED_BYTES_PER_MS,
    PATIENCE,
    PATIENCE_WITH_CELLS,
    TERMS,
    Bounds,
    Deadlines,
    Owed,
)
from rlm_wasm.protocol.cell import setup_limits
from tests.support.sandbox_facts import MIB, cell_limits, session_limits

MS = 1_000_000
GRACE_MS = 1_000
BEAT_MS = 200
CELL = cell_limits(wall_ms_max=10_000, sleep_ms_max=1_000)
SESSION = session_limits(memory_bytes_max=400 * MIB, checkpoint_bytes_max=0)
NEVER_MS = 10_000_000


@dataclass
class Clock:
    """A worker's books beat by beat; it uses `cpu` of each 1,000 ns."""

    books: Deadlines = field(default_factory=lambda: Deadlines(GRACE_MS))
    now_ns: int = 5 * MS
    cpu_ns: int = 0

    def owe(self, debtor: int, owed: Owed, **more: int) -> CellCharge | None:
        cell = owed in (Owed.RUNNING, Owed.INTERRUPTED)
        charge = CellCharge(CELL, self.now_ns) if cell else None
        self.books.owe(debtor, owed, self.now_ns, session=SESSION, charge=charge, **more)
        return charge

    def beat(self, cpu: int | None = 1_000, *, ms: int = BEAT_MS, late_ms: int = 0) -> Owed | None:
        self.now_ns += ms * MS
        self.cpu_ns += ms * MS * (cpu or 0) // 1_000
        return self.books.tick(self.now_ns, None if cpu is None else self.cpu_ns, late_ns=late_ms * MS)

    def until_overdue(self, cpu: int | None, *, ms_max: int = NEVER_MS) -> int:
        """Return after how many ms something is overdue."""
        began_ns = self.now_ns
        while self.now_ns - began_ns < ms_max * MS:
            if self.beat(cpu) is not None:
                return (self.now_ns - began_ns) // MS
        return NEVER_MS


def test_there_are_terms_for_everything_that_can_be_owed() -> None:
    assert set(TERMS) == set(Owed)


@pytest.mark.parametrize("size", [0, 1_000, 64 * MIB, 1_024 * MIB])
def test_a_value_has_as_long_as_the_guest_may_take_to_read_it(size: int) -> None:
    """Else an honest worker would be killed on a slow machine, and its neighbours' sessions with it."""
    in_guest = setup_limits(size)
    assert TERMS[Owed.LOADING](Bounds(GRACE_MS, bytes_max=size)).allowed_ms > in_guest.wall_ms_max
    # At 500 instructions a microsecond, half of what the slowest machine did that was tried.
    assert in_guest.wall_ms_max >= (in_guest.fuel_max - setup_limits().fuel_max) // 500_000


@pytest.mark.threat("T-121")
@pytest.mark.parametrize("owed", Owed)
@pytest.mark.parametrize("cpu", [None, 0, 5, 30, 500, 1_000])
def test_whatever_is_owed_is_overdue_at_some_point_whatever_the_worker_does(
    owed: Owed, cpu: int | None
) -> None:
    clock = Clock()
    clock.owe(1, owed)
    assert clock.until_overdue(cpu) < PATIENCE * 20_000


@pytest.mark.threat("T-121")
@pytest.mark.parametrize(
    ("cpu", "overdue_ms"),
    [
        (0, 2_000),  # it does nothing: a cell may sleep for a second, and there is the grace
        (5, 2_000),  # it answers pings
        (1_000, 12_000),  # it computes: the cell's time, its sleep and the grace
        (500, 24_000),
        (100, PATIENCE_WITH_CELLS * 12_000),  # it seems to get little of the machine
        (None, PATIENCE_WITH_CELLS * 12_000),
    ],
)
def test_a_cell_alone_in_its_worker_ends_soon_after_its_limit(cpu: int | None, overdue_ms: int) -> None:
    clock = Clock()
    clock.owe(1, Owed.RUNNING)
    assert overdue_ms <= clock.until_overdue(cpu) <= overdue_ms + 2 * BEAT_MS


@pytest.mark.threat("T-121")
def test_a_cell_that_was_interrupted_is_waited_for_half_a_second_and_no_second_time() -> None:
    clock = Clock()
    clock.owe(1, Owed.RUNNING)
    clock.beat()
    for _ in range(3):
        clock.books.interrupted(1, clock.now_ns, SESSION)
        assert clock.books.owed(1) is Owed.INTERRUPTED
        assert clock.beat() is None
    assert clock.until_overdue(1_000) <= 2_500 - 600 + 2 * BEAT_MS


@pytest.mark.threat("T-121")
def test_what_is_told_to_end_ends_at_the_next_turn() -> None:
    clock = Clock()
    clock.owe(1, Owed.STOPPING)
    copied_ms = 2 * 400 * MIB // COPIED_BYTES_PER_MS
    assert clock.until_overdue(1_000) <= GRACE_MS + copied_ms + 2 * BEAT_MS
    idle = Clock()
    idle.owe(1, Owed.CLOSING)
    assert idle.until_overdue(0) <= GRACE_MS + 2 * BEAT_MS


def test_time_in_which_the_guest_waits_for_its_host_is_not_the_workers() -> None:
    clock = Clock()
    charge = clock.owe(1, Owed.RUNNING)
    assert charge is not None
    charge.pause(clock.now_ns)
    assert clock.until_overdue(0, ms_max=900_000) == NEVER_MS
    charge.resume(clock.now_ns)
    assert clock.until_overdue(0) <= 2_000 + 2 * BEAT_MS


def test_time_in_which_the_host_stood_still_is_not_the_workers() -> None:
    clock = Clock()
    clock.owe(1, Owed.RUNNING)
    for _ in range(50):
        assert clock.beat(0, ms=5_000, late_ms=4_990) is None


def test_a_debt_that_is_paid_is_forgotten() -> None:
    clock = Clock()
    for owed in Owed:
        clock.owe(1, owed)
        clock.books.paid(1)
        assert clock.books.owed(1) is None
    assert len(clock.books) == 0
    assert clock.until_overdue(0, ms_max=100_000) == NEVER_MS


@pytest.mark.parametrize("busy", [2, 64, 256])
@pytest.mark.parametrize("neighbours_slice_ms", [4, 16, 32])
def test_honest_cells_that_share_a_worker_are_never_overdue(busy: int, neighbours_slice_ms: int) -> None:
    """Session 1 gets slices of 4 ms, each other one longer ones; each ends when it ran for its limit."""
    clock = Clock()
    for debtor in range(1, busy + 1):
        clock.owe(debtor, Owed.RUNNING)
    round_ms = 4 + (busy - 1) * neighbours_slice_ms
    rounds_left = CELL.wall_ms_max // 4
    while rounds_left > 0:
        beat_ms = max(BEAT_MS, round_ms)
        assert clock.beat(ms=beat_ms) is None
        rounds_left -= beat_ms // round_ms
        for debtor in range(2, busy + 1):  # the others begin anew
            if clock.now_ns // MS % 7 == 0:
                clock.books.paid(debtor)
                clock.owe(debtor, Owed.RUNNING)


@pytest.mark.threat("T-121")
@pytest.mark.parametrize("busy", [2, 64, 256])
def test_a_worker_of_many_that_does_nothing_is_overdue_as_soon_as_one_of_one(busy: int) -> None:
    clock = Clock()
    for debtor in range(1, busy + 1):
        clock.owe(debtor, Owed.RUNNING)
    assert clock.until_overdue(5) <= 2_000 + 2 * BEAT_MS


def test_what_a_neighbour_copies_is_not_held_against_who_waits_for_a_turn() -> None:
    clock = Clock()
    for debtor in range(1, 9):
        clock.owe(debtor, Owed.STOPPING)
    # Each of the eight copies a memory, one after the other: 4 s at the speed that is assumed.
    for _ in range(8 * 4_000 // BEAT_MS):
        assert clock.beat() is None


@pytest.mark.parametrize("seed", range(20))
def test_an_honest_worker_on_a_machine_that_is_busy_is_never_overdue(seed: int) -> None:
    """It gets 2 % to all of the CPU; a cell ends by its own clock, copies by the CPU time they take."""
    draw = Random(seed)
    clock = Clock()
    for _ in range(20):
        charge = clock.owe(1, Owed.RUNNING)
        ran_ms = 0
        while ran_ms < CELL.wall_ms_max:
            assert clock.beat(draw.randint(20, 1_000)) is None
            ran_ms += BEAT_MS
            if draw.random() < 0.1 and charge is not None:
                charge.pause(clock.now_ns)
                clock.beat(0)
                charge.resume(clock.now_ns)
        clock.owe(1, Owed.IMAGING)
        copied_ms = 0
        while copied_ms < 700:  # what 400 MiB take
            cpu = draw.randint(200, 1_000)
            assert clock.beat(cpu) is None
            copied_ms += BEAT_MS * cpu // 1_000
        clock.books.paid(1)


def test_a_backlog_is_read_by_its_size() -> None:
    small, large = Clock(), Clock()
    small.owe(0, Owed.READING, bytes_max=1)
    large.owe(0, Owed.READING, bytes_max=256 * MIB)
    assert small.until_overdue(1_000) <= GRACE_MS + 2 * BEAT_MS
    assert 10_000 < large.until_overdue(1_000) < 40_000
