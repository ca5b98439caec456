"""A session's state can be kept, gone back to and forked; what is forked does not see the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from rlm_wasm.errors import FuelExhausted, GuestTrap, UsageError
from rlm_wasm.vm import dirty_pages_unsafe as dirty_unsafe
from rlm_wasm.vm.entropy import seeded_entropy
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot
from tests.support.host_health import health
from tests.support.sandbox_facts import MIB, boundary_limits, completed, run_cell, session_limits

pytestmark = pytest.mark.guest

STATE = """
state = [i * i for i in range(1000)]
def total():
    return sum(state)
def half():
    yield from range(10)
walk = half()
next(walk); next(walk)
"""
Fork = Callable[[MemorySnapshot], Session]


@pytest.fixture
def fork(guest: LoadedGuest) -> Iterator[Fork]:
    made: list[Session] = []

    def make(snapshot: MemorySnapshot) -> Session:
        session = Session(
            guest.program, guest.facts, session_limits(), boundary_limits(), os.urandom, start=snapshot
        )
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


def taken(session: Session) -> MemorySnapshot:
    snapshot = drive(session.snapshot())
    assert snapshot is not None
    return snapshot


def shown(session: Session, expression: str) -> str | None:
    return completed(session, expression).result


def test_a_fork_has_functions_objects_and_a_half_read_generator(session: Session, fork: Fork):
    completed(session, STATE)
    child = fork(taken(session))
    assert shown(child, "total(), next(walk)") == "(332833500, 2)"
    completed(child, "def total(): return 'changed'")
    assert shown(session, "total(), next(walk)") == "(332833500, 2)"
    assert shown(child, "total()") == "'changed'"


def test_forks_of_forks_build_on_one_another(session: Session, fork: Fork):
    completed(session, "seen = ['parent']")
    for generation in range(4):
        completed(session, f"seen.append({generation})")
        session = fork(taken(session))
    assert shown(session, "seen") == "['parent', 0, 1, 2, 3]"


def test_generations_of_forks_hold_the_memory_of_the_last_only(session: Session, fork: Fork):
    files = []
    for generation in range(6):
        completed(session, f"last = {generation}")
        older, session = session, fork(taken(session))
        older.close()
        files.append(sum("memfd:rlm-snapshot" in fd for fd in health().fds))
    assert files[-1] <= files[1]
    assert shown(session, "last") == "5"


def test_a_fork_of_a_grown_session_has_the_grown_part(session: Session, fork: Fork):
    completed(session, "big = bytearray(b'x' * 40_000_000); big[-1] = 7")
    snapshot = taken(session)
    assert snapshot.bytes_held >= 40_000_000
    child = fork(snapshot)
    assert shown(child, "len(big), big[0], big[-1]") == "(40000000, 120, 7)"
    completed(child, "more = bytearray(20_000_000)")


def test_a_trap_costs_no_variables_where_a_snapshot_was_kept(session: Session):
    completed(session, STATE)
    kept = taken(session)
    result = run_cell(session, "state.clear()\nimport os; os._exit(3)")
    assert isinstance(result.error, GuestTrap)
    assert session.lost
    session.restore(kept)
    assert shown(session, "total(), next(walk)") == "(332833500, 2)"


def test_a_session_goes_back_as_often_as_wanted(session: Session):
    completed(session, "kept = 1")
    kept = taken(session)
    for _ in range(3):
        result = run_cell(session, "kept = 2\nwhile True: pass", fuel_max=30_000_000)
        assert isinstance(result.error, FuelExhausted)
        session.restore(kept)
        assert shown(session, "kept") == "1"


def test_a_session_can_go_back_without_having_been_lost(session: Session):
    completed(session, "kept = 1")
    kept = taken(session)
    completed(session, "kept = 2; big = bytearray(30_000_000)")
    session.restore(kept)
    assert shown(session, "kept") == "1"
    assert "NameError" in str(run_cell(session, "big").error)


def test_after_a_rebase_only_what_comes_later_is_kept(session: Session):
    completed(session, "big = bytearray(b'y' * 30_000_000)")
    assert taken(session).bytes_held >= 30_000_000
    drive(session.rebase())
    completed(session, "small = 5")
    kept = taken(session)
    assert kept.bytes_held < 4 * MIB
    run_cell(session, "import os; os._exit(0)")
    session.restore(kept)
    assert shown(session, "small, len(big), big[-1]") == "(5, 30000000, 121)"


def test_a_snapshot_over_its_limit_is_not_taken(session: Session):
    completed(session, "big = bytearray(b'z' * 8_000_000)")
    assert drive(session.snapshot(bytes_max=MIB)) is None
    assert drive(session.snapshot(bytes_max=32 * MIB)) is not None


def test_a_session_does_not_go_back_to_anothers_snapshot(make_session, fork: Fork):
    one = make_session()
    other = fork(taken(one))
    completed(other, "mine = 1")
    with pytest.raises(UsageError, match="of its own"):
        one.restore(taken(other))
    assert shown(one, "1 + 1") == "2"


def test_a_closed_session_does_not_come_back(session: Session):
    kept = taken(session)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.restore(kept)


def test_no_snapshot_is_taken_in_the_middle_of_a_cell(session: Session):
    from rlm_wasm.protocol.cell import Cell
    from tests.support.sandbox_facts import cell_limits

    operation = session.run(Cell("while True: pass", cell_limits()))
    next(operation)
    with pytest.raises(UsageError, match="busy"):
        drive(session.snapshot())
    with pytest.raises(UsageError, match="busy"):
        session.restore(MemorySnapshot.__new__(MemorySnapshot))
    operation.close()


def test_forks_draw_fresh_random_numbers_and_seeded_ones_repeat(guest: LoadedGuest, session: Session):
    completed(session, "import random; random.random()")
    snapshot = taken(session)

    def draw(entropy: Callable[[int], bytes]) -> str | None:
        child = Session(
            guest.program, guest.facts, session_limits(), boundary_limits(), entropy, start=snapshot
        )
        try:
            return shown(child, "random.random()")
        finally:
            child.close()

    assert len({draw(os.urandom) for _ in range(4)}) == 4
    assert draw(seeded_entropy(7, 1)) == draw(seeded_entropy(7, 1)) != draw(seeded_entropy(7, 2))


def test_going_back_does_not_disturb_a_seed_the_guest_chose(session: Session):
    completed(session, "import random; random.seed(42); first = random.random()")
    kept = taken(session)
    expected = shown(session, "random.random()")
    session.restore(kept)
    assert shown(session, "random.random()") == expected


def test_the_virtual_clock_goes_back_too_and_never_before_the_snapshot(session: Session):
    completed(session, "import time; time.sleep(0.5); before = time.monotonic()")
    kept = taken(session)
    completed(session, "time.sleep(0.5)")
    session.restore(kept)
    assert shown(session, "0 < time.monotonic() - before < 0.4") == "True"


@pytest.mark.parametrize("way", [dirty_unsafe._scan, dirty_unsafe._read, dirty_unsafe._everything])
def test_each_way_of_finding_written_pages_gives_the_same_memory(
    way, session: Session, fork: Fork, monkeypatch
):
    monkeypatch.setattr(dirty_unsafe, "_way", way)
    completed(session, "text = 'abc' * 1000; numbers = list(range(50_000)); hole = bytearray(3_000_000)")
    child = fork(taken(session))
    check = "import zlib; zlib.crc32(repr((text, numbers)).encode()), len(hole), sum(hole)"
    assert shown(child, check) == shown(session, check)


def test_a_way_that_misses_a_page_is_not_chosen():
    assert dirty_unsafe._proves_itself(dirty_unsafe._read)
    assert not dirty_unsafe._proves_itself(lambda address, length: dirty_unsafe._read(address, length)[:1])


def test_many_forks_leave_nothing_behind(healthy_host, make_session, fork: Fork):
    session = make_session()
    completed(session, "x = 1")
    snapshot = taken(session)
    for _ in range(50):
        child = fork(snapshot)
        completed(child, "x += 1")
        child.close()
    session.close()
    del snapshot


@pytest.mark.threat("T-052")
def test_a_pagemap_opened_before_a_fork_is_not_believed():
    """It describes the parent: the child would find nothing written, and keep an empty snapshot."""
    script = (
        "import os\n"
        "from rlm_wasm.vm import dirty_pages_unsafe as d\n"
        "before = os.open('/proc/self/pagemap', os.O_RDONLY)\n"
        "for fd in (before, None):\n"
        " pid = os.fork()\n"
        " if pid == 0:\n"
        "  sample = os.memfd_create('sample')\n"
        "  os.ftruncate(sample, 1 << 20)\n"
        "  d.hold_pagemap(fd or os.open('/proc/self/pagemap', os.O_RDONLY), sample)\n"
        "  os.write(1, d.way_in_use().encode() + b' ')\n"
        "  os._exit(0)\n"
        " os.waitpid(pid, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["everything", dirty_unsafe.way_in_use()]
    assert dirty_unsafe.way_in_use() != "everything"
