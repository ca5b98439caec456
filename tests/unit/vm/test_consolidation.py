"""What a session wrote is moved into memory files, so that keeping its state again costs what is new."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import CellCancelled, DeadlineExceeded, HostExhausted
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm import linear_unsafe, operations
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.consolidation import (
    CONSOLIDATED_FROM_BYTES,
    FILES_MAX,
    STRETCHES_MAX,
    laid_over,
    stretches_to_move,
    total,
    united,
)
from rlm_wasm.vm.dirty_pages_unsafe import PAGE, Range
from rlm_wasm.vm.linear_unsafe import MAP_FAILED, Overlay, SystemCalls
from rlm_wasm.vm.session import Operation, Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.steps import SLICE
from tests.support.host_health import health
from tests.support.sandbox_facts import MIB, cell_limits, completed

_BIG = "big = bytearray(range(256)) * (20 << 12)"  # 20 MiB


def _taken(session: Session) -> MemorySnapshot:
    snapshot = drive(session.snapshot())
    assert snapshot is not None
    return snapshot


def _checkpointed(session: Session, source: str, **limits: int) -> Operation[object]:
    cell = Cell(source, cell_limits(**limits), report_variables=True)
    return operations.run_cell(session, cell, 100 * MIB, Checkpoints())


def _layer_files() -> int:
    return sum("memfd:rlm-layer" in fd for fd in health().fds)


# -- decisions ------------------------------------------------------------------------------------

_pages = st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 600)), max_size=40)


def _ranges(pages: list[tuple[int, int]]) -> list[Range]:
    return united([(first * PAGE, count * PAGE) for first, count in pages], [])


@given(_pages, st.booleans())
def test_what_is_not_moved_is_little(pages: list[tuple[int, int]], everything: bool) -> None:
    """Stretches are in order, inside what was written or between, few; the rest is below its bound."""
    written = _ranges(pages)
    moved = stretches_to_move(written, everything=everything)
    assert len(moved) <= STRETCHES_MAX
    assert all(sum(one) < other[0] for one, other in pairwise(moved))
    assert total(united(written, moved)) - total(moved) <= (0 if everything else CONSOLIDATED_FROM_BYTES)


def test_pages_far_apart_are_moved_together_where_they_are_too_many() -> None:
    """A guest that writes every tenth page does not get a mapping for each."""
    written = [(k * 10 * PAGE, PAGE) for k in range(10_000)]
    assert 0 < len(stretches_to_move(written)) <= STRETCHES_MAX


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.integers(3, 6)), max_size=12))
def test_the_newest_overlay_is_the_one_that_is_seen(laid: list[tuple[int, int, int]]) -> None:
    """As with a table of pages that each overlay writes its number into."""
    seen: dict[int, int] = {}
    overlays: tuple[Overlay, ...] = ()
    for first, count, fd in laid:
        overlays = laid_over(overlays, Overlay(fd, first * PAGE, count * PAGE))
        seen |= dict.fromkeys(range(first, first + count), fd)
    found = [(page, o.fd) for o in overlays for page in range(o.offset // PAGE, o.end // PAGE)]
    assert sorted(found) == sorted(seen.items())


# -- sessions -------------------------------------------------------------------------------------


@pytest.mark.guest
@pytest.mark.threat("T-162")
def test_the_second_snapshot_copies_only_what_came_after_the_first(session: Session) -> None:
    """Much was written before: it is in one file by then, which both share, and still counts as held."""
    completed(session, _BIG)
    first = _taken(session)
    completed(session, "small = 1")
    second = _taken(session)
    assert first.overlays == second.overlays
    assert first.bytes_held >= 20 * MIB
    assert second.bytes_held >= 20 * MIB
    assert second.layer.bytes_held < 4 * MIB
    assert completed(session, "small, len(big), sum(big[::4096])").result == "(1, 20971520, 0)"
    session.restore(first)
    assert completed(session, "len(big), sum(big[:256]), 'small' in globals()").result == (
        "(20971520, 32640, False)"
    )


@pytest.mark.guest
def test_states_in_any_order_are_what_they_were(make_session: Callable[..., Session]) -> None:
    """Parts of much memory are written, snapshots taken, gone back to and rebased over, in random order."""
    seed = 20
    chance = random.Random(seed)
    session = make_session(memory_bytes_max=256 * MIB)
    completed(session, "import zlib\nparts = [bytearray(3 << 20) for _ in range(8)]")
    expected = [bytearray(3 << 20) for _ in range(8)]
    kept: list[tuple[MemorySnapshot, list[bytes]]] = []
    for step in range(40):
        which, at, value = chance.randrange(8), chance.randrange(3 << 20), chance.randrange(1, 256)
        length = chance.choice([1, 5_000, 3 << 20])
        completed(
            session,
            f"p = parts[{which}]; p[{at}:{at + length}] = bytes([{value}]) * len(p[{at}:{at + length}])",
        )
        part = expected[which]
        part[at : at + length] = bytes([value]) * len(part[at : at + length])
        match chance.randrange(4):
            case 0:
                kept.append((_taken(session), [bytes(part) for part in expected]))
            case 1 if kept:
                snapshot, contents = chance.choice(kept)
                session.restore(snapshot)
                expected = [bytearray(part) for part in contents]
            case 2 if chance.random() < 0.3:
                drive(session.rebase())
                kept.clear()
        wanted = str([zlib.crc32(part) for part in expected])
        assert completed(session, "[zlib.crc32(p) for p in parts]").result == wanted, (seed, step)


@pytest.mark.guest
@pytest.mark.threat("T-162")
def test_a_session_that_rewrites_all_it_has_holds_a_bounded_number_of_files(session: Session) -> None:
    """Each cell writes 20 MiB anew: what is hidden in older files is not kept."""
    before = _layer_files()
    completed(session, _BIG)
    for k in range(12):
        drive(_checkpointed(session, f"big[:] = bytes([{k}]) * len(big)"))
        assert _layer_files() - before <= FILES_MAX
    snapshot = _taken(session)
    files = {overlay.fd for overlay in snapshot.overlays}
    held = sum(os.fstat(fd).st_blocks * 512 for fd in files)
    assert held <= 3 * snapshot.bytes_held
    assert completed(session, "set(big)").result == "{11}"


@pytest.mark.guest
def test_a_session_that_is_given_many_inputs_holds_a_bounded_number_of_files(session: Session) -> None:
    """Its origin is taken anew after each, and the older ones' files are merged."""
    before = _layer_files()
    for k in range(12):
        drive(session.load(f"part_{k}", chr(97 + k) * (2 << 20)))
        drive(session.rebase())
        assert _layer_files() - before <= FILES_MAX
    assert _taken(session).bytes_held < 2 * MIB
    assert completed(session, "[eval(f'part_{k}')[-1] for k in range(12)], len(part_0)").result == (
        "(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'], 2097152)"
    )


@pytest.mark.guest
@pytest.mark.threat("T-162")
def test_keeping_a_state_gives_others_their_turn_and_is_the_cells_time(session: Session) -> None:
    """A step for every two MiB that are moved; its time and fuel are told as the cell's."""
    completed(session, _BIG)
    operation = _checkpointed(session, "1")
    steps = 0
    with closing(operation):
        while next(operation) is SLICE:
            steps += 1
            if steps == 10:
                break
        assert session.memory_bytes > 40 * MIB
        result = drive(_rest(operation))
    assert isinstance(result, CellResult)
    plain = completed(session, "1")
    assert result.executed_ns > plain.executed_ns
    due = session.memory_bytes // 64
    assert plain.fuel_used + due <= result.fuel_used <= plain.fuel_used + due + 500_000


def _rest(operation: Operation[object]) -> Operation[object]:
    while True:
        try:
            step = next(operation)
        except StopIteration as ended:
            return ended.value
        yield step


@pytest.mark.guest
@pytest.mark.threat("T-162")
@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_cell_can_be_stopped_while_the_state_before_it_is_kept(session: Session, how: str) -> None:
    """It ends typed before it began, with every variable; so does one whose time that takes."""
    completed(session, _BIG)
    operation = _checkpointed(session, "big = None", wall_ms_max=20_000 if how == "cancelled" else 0)
    with closing(operation):
        if how == "cancelled":
            assert next(operation) is SLICE
            session.interrupt()
        result = drive(_rest(operation))
    assert isinstance(result, CellResult)
    kind = CellCancelled if how == "cancelled" else DeadlineExceeded
    assert isinstance(result.error, kind)
    assert result.session_state == "alive"
    assert completed(session, "len(big)").result == "20971520"


@pytest.mark.guest
def test_dropped_at_any_step_it_leaves_the_session_as_it_was(session: Session) -> None:
    """The file is there or not, mapped in part or as a whole: the guest sees the same memory."""
    completed(session, f"import zlib\n{_BIG}")
    expected = completed(session, "zlib.crc32(big)").result
    for count in (1, 2, 5, 19, 20, 21, 22, 23, 24):
        with closing(session.snapshot()) as operation:
            for _ in range(count):
                next(operation, None)
        assert completed(session, f"big[{count}] = big[{count}]; zlib.crc32(big)").result == expected
    restored = _taken(session)
    session.restore(restored)
    assert completed(session, "zlib.crc32(big)").result == expected


@pytest.mark.guest
def test_without_room_for_a_file_the_state_is_kept_all_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine out of descriptors: pages are copied as if there were no files, and a rebase does nothing."""
    completed(session, _BIG)

    def refused(name: str, flags: int) -> int:
        raise OSError(24, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refused)
        drive(session.rebase())
        snapshot = _taken(session)
    assert snapshot.overlays == ()
    assert snapshot.layer.bytes_held >= 20 * MIB
    completed(session, "big = None")
    session.restore(snapshot)
    assert completed(session, "len(big)").result == "20971520"


@pytest.mark.guest
def test_a_mapping_that_the_kernel_refuses_ends_the_session_typed(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory may lack pages then: it is lost, can go back, and nothing is left behind."""
    session = make_session()
    completed(session, "x = 5")
    kept = _taken(session)
    completed(session, _BIG)

    class Refusing(SystemCalls):
        def mmap(
            self, address: int, length: int, protection: int, flags: int, fd: int, offset: int = 0
        ) -> int:
            return MAP_FAILED if fd >= 0 else super().mmap(address, length, protection, flags, fd, offset)

    with monkeypatch.context() as patched:
        patched.setattr(linear_unsafe, "system", Refusing())
        with pytest.raises(HostExhausted, match="cannot be mapped"):
            drive(session.snapshot())
    assert session.lost
    session.restore(kept)
    assert completed(session, "x").result == "5"


@pytest.mark.guest
def test_which_pages_the_kernel_made_ready_is_no_part_of_a_state(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that were populated and hold what they held before are in no saved image."""

    class Lazy(SystemCalls):
        def madvise_populate(self, address: int, length: int, *, write: bool) -> None:
            pass

        def madvise_huge(self, address: int, length: int) -> None:
            pass

    def state() -> tuple[tuple[int, bytes], ...]:
        session = make_session(entropy=bytes)
        completed(session, "x = [bytearray(9 << 20)[:10] for _ in range(3)]; x = None")
        return _taken(session).flattened()

    eager = state()
    monkeypatch.setattr(linear_unsafe, "system", Lazy())
    assert eager == state()
