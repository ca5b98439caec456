"""No instruction and no growth takes longer than a slice: whatever a guest asks for, it takes turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from rlm_wasm.errors import DeadlineExceeded, FuelExhausted, GuestError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm.dirty_pages_unsafe import present_ranges
from rlm_wasm.vm.instance import SLICE_FUEL
from rlm_wasm.vm.linear_unsafe import PAGE_BYTES, SystemCalls
from rlm_wasm.vm.metering import FUEL_PER_GROWTH, FUEL_PER_VAIN_GROWTH
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.steps import SLICE, CellEnd
from tests.support.sandbox_facts import MIB, cell_limits, completed
from tests.support.wat_guest import MEMORY_BYTES, session_of

pytestmark = [pytest.mark.usefixtures("healthy_host"), pytest.mark.threat("T-161")]

_ROOM = {"memory_bytes_max": 64 * MIB}


def _steps(session: Session, source: str = "", **limits: int) -> tuple[CellEnd, int]:
    """Run a cell; return its end and how often it gave the thread back."""
    operation = session.run(Cell(source, cell_limits(**limits)))
    count = 0
    try:
        while next(operation) is SLICE:
            count += 1
    except StopIteration as ended:
        end: CellEnd = ended.value
        return end, count
    raise AssertionError("the guest waits for a host")


def _times(count: int, body: str) -> str:
    return (
        f"(loop $next {body} (br_if $next (i32.lt_u"
        f" (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count}))))"
    )


@pytest.mark.parametrize("pages", [0, 60_000], ids=["by nothing", "by more than there may be"])
def test_growing_in_vain_costs_fuel_and_does_not_reach_the_host(
    pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of them ends its slices like any other, and meets the limit of fuel."""

    class Never(SystemCalls):
        def mprotect(self, address: int, length: int, protection: int) -> int:
            # While the memory is made only: the image is all of it.
            assert not length, "the host was asked"
            return super().mprotect(address, length, protection)

    monkeypatch.setattr(linear_unsafe, "system", Never())
    with session_of(_times(100_000, f"(drop (memory.grow (i32.const {pages})))")) as session:
        end, slices = _steps(session)
        assert end.fault is None
        assert end.fuel_used >= 0.95 * 100_000 * FUEL_PER_VAIN_GROWTH
        assert slices >= 0.95 * 100_000 * FUEL_PER_VAIN_GROWTH // SLICE_FUEL
        assert session.memory_bytes == MEMORY_BYTES


def test_growth_page_by_page_reaches_the_host_a_bounded_number_of_times_a_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each growth that succeeds is a call of ours, and paid for as one."""
    grown = 0

    class Counting(SystemCalls):
        def mprotect(self, address: int, length: int, protection: int) -> int:
            nonlocal grown
            grown += length == PAGE_BYTES
            return super().mprotect(address, length, protection)

    monkeypatch.setattr(linear_unsafe, "system", Counting())
    with session_of("(loop $next (drop (memory.grow (i32.const 1))) (br $next))", limits=_ROOM) as session:
        with closing(session.run(Cell("", cell_limits()))) as operation:
            for _ in range(4):
                before = grown
                assert next(operation) is SLICE
                assert grown - before <= SLICE_FUEL // FUEL_PER_GROWTH
            assert grown > 0


@pytest.mark.parametrize(("wall_ms_max", "kind"), [(20_000, FuelExhausted), (0, DeadlineExceeded)])
def test_a_loop_of_growth_meets_its_limits(wall_ms_max: int, kind: type[GuestError]) -> None:
    """A guest that does nothing else runs out of fuel or time like any other."""
    with session_of("(loop $next (drop (memory.grow (i32.const 60000))) (br $next))") as session:
        end, _ = _steps(session, wall_ms_max=wall_ms_max, fuel_max=2_000_000_000)
        assert isinstance(end.fault, kind)


@pytest.mark.parametrize(
    "instruction",
    [
        "(memory.fill (i32.const 16384) (i32.const 7) (i32.const {n}))",
        "(memory.copy (i32.const 16384) (i32.const 16383) (i32.const {n}))",
        "(memory.copy (i32.const 16383) (i32.const 16384) (i32.const {n}))",
    ],
    ids=["fill", "copy up", "copy down"],
)
def test_a_fill_or_copy_of_much_memory_takes_as_many_turns_as_it_should(instruction: str) -> None:
    """One instruction over 48 MiB gives the thread back after each slice of fuel, here 1 M."""
    length = 48 * MIB
    body = "(drop (memory.grow (i32.const 800)))" + instruction.format(n=length)
    with session_of(body, limits=_ROOM) as session:
        end, slices = _steps(session, fuel_max=64_000_000 + 2 * 800 * PAGE_BYTES)
        assert end.fault is None
        slice_fuel = end.fuel_used / slices
        assert slice_fuel < 5_000_000, "each turn is a small part of it"


def test_what_a_memory_grew_by_is_cleared_in_pieces_between_the_guests_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pages are there before the guest runs on; each piece is a turn of its own, and limits hold."""
    pieces: list[int] = []

    class Watching(SystemCalls):
        def madvise_populate(self, address: int, length: int, *, write: bool) -> None:
            pieces.append(length)
            super().madvise_populate(address, length, write=write)

    monkeypatch.setattr(linear_unsafe, "system", Watching())
    with session_of("(drop (memory.grow (i32.const 800)))", limits=_ROOM) as session:
        with closing(session.run(Cell("", cell_limits()))) as operation:
            seen = 0
            while sum(pieces) <= 800 * PAGE_BYTES - 4 * MIB:
                assert next(operation) is SLICE
                assert len(pieces) - seen <= 1
                seen = len(pieces)
            assert max(pieces) <= 4 * MIB
            memory = session._memory
            assert present_ranges(memory.base + MEMORY_BYTES, sum(pieces)) == [(0, sum(pieces))]
        pieces.clear()
    with session_of("(drop (memory.grow (i32.const 800)))", limits=_ROOM) as session:
        end, _ = _steps(session, wall_ms_max=0)
        assert isinstance(end.fault, DeadlineExceeded)
        assert len(pieces) <= 1


def test_a_little_growth_is_left_to_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that grows by a megabyte holds what it touches, no more."""

    class Never(SystemCalls):
        def madvise_populate(self, address: int, length: int, *, write: bool) -> None:
            raise AssertionError("populated")

    monkeypatch.setattr(linear_unsafe, "system", Never())
    with session_of("(drop (memory.grow (i32.const 16)))", limits=_ROOM) as session:
        end, _ = _steps(session)
        assert end.fault is None


@pytest.mark.guest
@pytest.mark.parametrize(
    "source",
    [
        "x = bytearray(100 << 20)",
        "x = b'x' * (100 << 20)",
        "x = b'x' * (40 << 20); y = bytearray(x)",
        "x = '\\xe9' * (40 << 20); y = x + 'a'",
        "x = [0] * (20 << 20); y = x[:]",
        "x = ''.join(['a' * (1 << 20)] * 60)",
        "x = bytearray(60 << 20); x[:] = bytes(40 << 20)",
        "x = bytearray(60 << 20); del x[:5]",
        "x = bytearray(60 << 20); x[::4096] = b'a' * len(x[::4096])",
    ],
)
def test_a_large_object_is_made_in_many_turns(make_session: Callable[..., Session], source: str) -> None:
    """What CPython does with one call of libc gives others their turn all the same."""
    session = make_session(memory_bytes_max=256 * MIB)
    end, slices = _steps(session, source)
    assert end.fault is None
    assert slices >= 10
    assert completed(session, "len(x) > 1000").result == "True"
