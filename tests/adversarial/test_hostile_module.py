"""A guest that is all attacker: a module of a few instructions that abuses the seven imports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from time import monotonic_ns

import pytest

from rlm_wasm.errors import (
    BoundaryViolation,
    DeadlineExceeded,
    FuelExhausted,
    GuestTrap,
    InternalError,
    MemoryExceeded,
    OutputExceeded,
    PolicyError,
)
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import Requested
from rlm_wasm.protocol.input_reads import InputAsked, InputPart, encode_found
from rlm_wasm.vm.import_handler import CONTROL_STREAM_BYTES_MAX, ERROR, LEFT_BYTES_MAX, REPORT, RESULT, STDOUT
from rlm_wasm.vm.imports import FUEL_PER_REQUEST_BYTE, SLICE_WALL_NS
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.steps import CellEnd, Slice
from tests.support.sandbox_facts import cell_limits
from tests.support.wat_guest import FREE, MEMORY_BYTES, program_of, session_of

pytestmark = pytest.mark.usefixtures("healthy_host")

RESPONSE = b'{"status":"completed","text":"0123456789"}'
INTO = f"(i32.const {FREE})"
REQUEST = f"(drop (call $call {INTO} (i32.const 10)))"


def answer(frame: bytes) -> bytes:
    return RESPONSE


def run(session: Session, answer: Callable[[bytes], bytes] = answer, **limits: int) -> CellEnd:
    return drive(session.run(Cell("", cell_limits(**limits))), answer)


def fault_of(body: str, **more: object) -> object:
    """Return why the cell of this body ended, after checking that its session is lost."""
    with session_of(body, **more) as session:
        end = run(session)
        assert session.lost == (end.fault is not None)
        return end.fault


# Each (pointer, length) is outside: past the end, wrapping, negative.
OUTSIDE = [
    (MEMORY_BYTES, 1),
    (MEMORY_BYTES - 1, 2),
    (0, MEMORY_BYTES + 1),
    (-1, 1),
    (-1, 2),
    (-4, 8),
    (-(2**31), 1),
    (2**31 - 1, 2**31 - 1),
    (FREE, -1),
    (FREE, -(2**31)),
    (-FREE, FREE + 16),
]
BUFFERS = {
    "call": "(drop (call $call (i32.const {p}) (i32.const {n})))",
    "take": REQUEST + "(drop (call $take (i32.const {p}) (i32.const {n})))",
    "reply": f"(drop (call $call_into {INTO} (i32.const 10) (i32.const {{p}}) (i32.const {{n}})))",
    "stdout": "(drop (call $emit (i32.const 1) (i32.const {p}) (i32.const {n})))",
    "result": "(drop (call $emit (i32.const 3) (i32.const {p}) (i32.const {n})))",
    "report": "(drop (call $emit (i32.const 5) (i32.const {p}) (i32.const {n})))",
    "entropy": "(drop (call $entropy (i32.const {p}) (i32.const {n})))",
}


@pytest.mark.threat("T-001")
@pytest.mark.parametrize("where", OUTSIDE, ids=str)
@pytest.mark.parametrize("template", BUFFERS.values(), ids=BUFFERS.keys())
def test_a_buffer_outside_guest_memory_is_a_violation(template: str, where: tuple[int, int]) -> None:
    pointer, length = where
    fault = fault_of(template.format(p=pointer, n=length))
    if (
        "$take" in template
        and 0 <= pointer <= MEMORY_BYTES - len(RESPONSE)
        and length & 0xFFFF_FFFF >= len(RESPONSE)
    ):
        assert fault is None or type(fault) is BoundaryViolation  # only the response's bytes are written
    else:
        assert type(fault) is BoundaryViolation, fault


@pytest.mark.threat("T-001")
@pytest.mark.parametrize("template", [BUFFERS["call"], BUFFERS["stdout"], BUFFERS["entropy"]])
@pytest.mark.parametrize("where", [(MEMORY_BYTES, 0), (MEMORY_BYTES - 10, 10), (0, 0)], ids=str)
def test_a_buffer_that_ends_with_the_memory_is_inside(template: str, where: tuple[int, int]) -> None:
    assert fault_of(template.format(p=where[0], n=where[1])) is None


@pytest.mark.threat("T-001")
def test_pointers_into_grown_memory_are_checked_against_the_new_size() -> None:
    """Growth is seen at once, by our own record: the new page is inside, the byte after it is not."""
    grow = "(drop (memory.grow (i32.const 1)))"
    inside, outside = MEMORY_BYTES + 65_526, MEMORY_BYTES + 65_527
    emit = "(drop (call $emit (i32.const 1) (i32.const {p}) (i32.const 10)))"
    with session_of(
        grow + f"(i32.store8 (i32.const {inside}) (i32.const 65))" + emit.format(p=inside)
    ) as session:
        end = run(session)
        assert (end.fault, end.stdout) == (None, b"A" + bytes(9))
        assert end.memory_bytes == MEMORY_BYTES + 65_536
    assert type(fault_of(grow + emit.format(p=outside))) is BoundaryViolation
    assert (
        type(fault_of(grow + f"(drop (call $entropy (i32.const {outside}) (i32.const 10)))"))
        is BoundaryViolation
    )


@pytest.mark.threat("T-003")
def test_growth_beyond_the_cap_fails_and_is_no_more_memory() -> None:
    """memory.grow gives -1; the guest decides what that means, and what lies beyond stays outside."""
    body = """(if (i32.ne (memory.grow (i32.const 100)) (i32.const -1)) (then (unreachable)))
              (drop (memory.grow (i32.const 6)))
              (if (i32.ne (memory.size) (i32.const 8)) (then (unreachable)))
              (i32.store (i32.const 524288) (i32.const 1))"""
    with session_of(body) as session:
        end = run(session)
        assert isinstance(end.fault, GuestTrap)
        assert "memory_out_of_bounds" in str(end.fault)
        assert end.memory_bytes == 8 * 65_536


@pytest.mark.threat("T-012")
@pytest.mark.parametrize("length", [1_000, 1_001, MEMORY_BYTES - FREE])
def test_a_frame_longer_than_the_cap_is_refused_unread(length: int) -> None:
    asked: list[bytes] = []

    def answer(frame: bytes) -> bytes:
        asked.append(frame)
        return RESPONSE

    call = f"(call $call_into {INTO} (i32.const {length}) {INTO} (i32.const 500))"
    body = f"(drop (call $emit (i32.const 1) {INTO} {call}))"
    with session_of(body, boundary={"frame_bytes_max": 1_000}) as session:
        end = run(session, answer)
        assert (end.fault, session.lost) == (None, False)
    if length <= 1_000:
        assert (end.stdout, len(asked)) == (RESPONSE, 1)
        return
    error = json.loads(end.stdout)["error"]
    assert error["type"] == "LimitExceeded"
    assert error["message"] == f"a request of {length} bytes; boundary.frame_bytes_max allows 1000"
    assert asked == []


@pytest.mark.threat("T-008")
@pytest.mark.parametrize(
    "body",
    [
        f"(drop (call $take {INTO} (i32.const 100)))",
        f"(drop (call $take {INTO} (i32.const 0)))",
        REQUEST + f"(drop (call $take {INTO} (i32.const 100)))" * 2,
        REQUEST + f"(drop (call $take {INTO} (i32.const {len(RESPONSE) - 1})))",
        REQUEST + f"(drop (call $take {INTO} (i32.const -1)))",
        REQUEST
        + "(drop (call $take (i32.const -1) (i32.const 100)))"
        + f"(drop (call $take {INTO} (i32.const 100)))",
    ],
    ids=["before a call", "of nothing", "twice", "too small", "negative", "again after a bad one"],
)
def test_a_take_that_is_not_the_one_due_is_a_violation(body: str) -> None:
    assert type(fault_of(body)) is BoundaryViolation


@pytest.mark.threat("T-008")
def test_a_take_gives_the_response_once_where_the_guest_wants_it() -> None:
    size = len(RESPONSE)
    body = REQUEST + (
        f"(if (i32.ne (call $take {INTO} (i32.const 4000)) (i32.const {size})) (then (unreachable)))"
        f"(drop (call $emit (i32.const 1) {INTO} (i32.const {size + 4})))"
    )
    with session_of(body) as session:
        end = run(session)
        assert (end.fault, end.stdout) == (None, RESPONSE + bytes(4))


@pytest.mark.threat("T-008")
@pytest.mark.parametrize("capacity", [0, len(RESPONSE) - 1, len(RESPONSE), len(RESPONSE) + 1])
def test_a_response_that_fits_the_reply_goes_there_and_is_not_there_to_take(capacity: int) -> None:
    call = f"(drop (call $call_into {INTO} (i32.const 10) (i32.const {FREE + 100}) (i32.const {capacity})))"
    show = f"(drop (call $emit (i32.const 1) (i32.const {FREE + 100}) (i32.const {len(RESPONSE) + 1})))"
    fits = capacity >= len(RESPONSE)
    with session_of(call + show) as session:
        # Not a byte of one that does not fit.
        assert run(session).stdout == (RESPONSE + b"\0" if fits else bytes(len(RESPONSE) + 1))
    fault = fault_of(call + f"(drop (call $take {INTO} (i32.const 1000)))")
    assert type(fault) is BoundaryViolation if fits else fault is None


@pytest.mark.threat("T-008")
def test_call_returns_the_length_of_the_response() -> None:
    body = (
        f"(if (i32.ne (call $call {INTO} (i32.const 10)) (i32.const {len(RESPONSE)})) (then (unreachable)))"
    )
    assert fault_of(body) is None


@pytest.mark.threat("T-008")
def test_a_second_call_drops_the_first_response() -> None:
    replies = iter([b"first", b"second"])
    body = (
        REQUEST * 2
        + f"(drop (call $take {INTO} (i32.const 6)))(drop (call $emit (i32.const 1) {INTO} (i32.const 6)))"
    )
    with session_of(body) as session:
        assert run(session, lambda frame: next(replies)).stdout == b"second"


@pytest.mark.threat("T-008")
def test_a_response_not_taken_is_gone_in_the_next_cell() -> None:
    body = f"""(global.set $n (i32.add (global.get $n) (i32.const 1)))
        (if (i32.eq (global.get $n) (i32.const 1)) (then {REQUEST})
            (else (drop (call $take {INTO} (i32.const 100)))))"""
    with session_of(body) as session:
        assert run(session).fault is None
        assert type(run(session).fault) is BoundaryViolation


@pytest.mark.threat("T-004")
@pytest.mark.parametrize("stream", [0, 7, -1, 2**31 - 1, -(2**31)])
def test_an_unknown_stream_is_a_violation(stream: int) -> None:
    assert (
        type(fault_of(f"(drop (call $emit (i32.const {stream}) {INTO} (i32.const 1)))")) is BoundaryViolation
    )


@pytest.mark.threat("T-004")
@pytest.mark.parametrize(
    ("stream", "cap", "kind"),
    [
        (1, 100, OutputExceeded),
        (2, 100, OutputExceeded),
        (3, 100, None),
        (4, CONTROL_STREAM_BYTES_MAX, BoundaryViolation),
    ],
)
def test_no_stream_makes_the_host_keep_more_than_its_cap(stream: int, cap: int, kind: type | None) -> None:
    flood = f"""(loop $l (drop (call $emit (i32.const {stream}) {INTO} (i32.const 4007)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 400))))"""
    with session_of(flood) as session:
        end = run(session, stdout_bytes_max=100, stderr_bytes_max=100, result_bytes_max=100)
        kept = {1: end.stdout, 2: end.stderr, 3: end.result, 4: end.error}[stream]
        assert kept is not None
        assert len(kept) == cap
        assert (end.fault if kind is None else type(end.fault)) is kind


@pytest.mark.threat("T-191")
@pytest.mark.parametrize(
    ("sizes", "kept"), [((100,), 100), ((101,), None), ((40, 60), 60), ((40, 101), None)]
)
def test_a_value_is_kept_whole_or_not_at_all(sizes: tuple[int, ...], kept: int | None) -> None:
    body = "".join(f"(drop (call $emit (i32.const 6) (i32.const 0) (i32.const {n})))" for n in sizes)
    with session_of(body) as session:
        end = drive(session.run(Cell("", cell_limits(result_bytes_max=100), report_value=True)))
        assert end.fault is None
        assert end.value_bytes == sizes[-1]
        assert (None if end.value is None else len(end.value)) == kept


@pytest.mark.threat("T-001")
def test_entropy_is_at_most_256_bytes_a_call() -> None:
    assert fault_of(f"(drop (call $entropy {INTO} (i32.const 256)))", entropy=lambda n: b"e" * n) is None
    assert type(fault_of(f"(drop (call $entropy {INTO} (i32.const 257)))")) is BoundaryViolation


@pytest.mark.threat("T-009")
@pytest.mark.parametrize(
    "call",
    [
        "(drop (call $call (i32.const 0) (i32.const 2)))",
        "(drop (call $take (i32.const 0) (i32.const 2)))",
        "(drop (call $emit (i32.const 1) (i32.const 0) (i32.const 2)))",
        "(drop (call $clock (i32.const 0)))",
        "(drop (call $entropy (i32.const 0) (i32.const 2)))",
        "(drop (call $sleep (i64.const 1)))",
    ],
)
@pytest.mark.parametrize("export", ["str_new", "commit"])
def test_no_import_works_outside_a_cell(call: str, export: str) -> None:
    parts = {export: call + "(i32.const 0)"} if export == "commit" else {export: call + f"(i32.const {FREE})"}
    with session_of("", **parts) as session:
        with pytest.raises(BoundaryViolation, match="outside a cell"):
            drive(session.load("context", "x"))
        assert session.lost


@pytest.mark.threat("T-009")
@pytest.mark.parametrize("pointer", [MEMORY_BYTES - 2, MEMORY_BYTES, -1, -(2**31)])
def test_a_lie_about_where_an_input_goes_is_a_violation(pointer: int) -> None:
    """The address comes from the guest's own allocator; nothing is written where it does not fit."""
    with session_of("", str_new=f"(i32.const {pointer})") as session:
        with pytest.raises(BoundaryViolation):
            drive(session.load("context", "four"))
        assert session.lost


@pytest.mark.threat("T-009")
def test_a_lie_about_where_the_source_goes_is_a_violation() -> None:
    with session_of("", alloc=f"(i32.const {MEMORY_BYTES - 100})") as session:
        end = drive(session.run(Cell("#" * 5_000, cell_limits())), answer)
        assert type(end.fault) is BoundaryViolation
    with session_of("", alloc="(i32.const 0)") as session:
        end = drive(session.run(Cell("#" * 5_000, cell_limits())), answer)
        assert type(end.fault) is MemoryExceeded


@pytest.mark.threat("T-009")
@pytest.mark.parametrize("export", ["alloc", "str_new", "commit"])
def test_an_export_that_never_returns_meets_the_limits(export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from rlm_wasm.protocol import cell

    monkeypatch.setattr(cell, "_SETUP", replace(cell._SETUP, fuel_max=100_000_000))
    with session_of("", **{export: "(loop $l (br $l)) (unreachable)"}) as session:
        if export == "alloc":
            end = drive(session.run(Cell("#" * 5_000, cell_limits(fuel_max=100_000_000))), answer)
            assert type(end.fault) is FuelExhausted
        else:
            with pytest.raises(FuelExhausted):
                drive(session.load("context", "x"))
        assert session.lost


@pytest.mark.threat("T-009")
def test_a_guest_that_refuses_an_input_is_a_trap() -> None:
    with session_of("", commit="(i32.const 7)") as session:
        with pytest.raises(GuestTrap):
            drive(session.load("context", "x"))
        assert session.lost


@pytest.mark.parametrize("status", [2, 99, 255])
def test_an_unknown_status_of_a_cell_is_a_trap(status: int) -> None:
    assert type(fault_of(f"(return (i32.const {status}))")) is GuestTrap


def leaving(*words: int, count: int | None = None) -> str:
    """A cell that leaves these words in its inbox, and says that there are so many bytes."""
    stores = "".join(f"(i32.store (i32.const {4 * k}) (i32.const {word}))" for k, word in enumerate(words))
    return f"{stores} (return (i32.const {(4 * len(words) if count is None else count) << 8}))"


TEXT = int.from_bytes(b"text", "little")


def test_what_a_cell_leaves_in_its_inbox_is_its_result_and_documents() -> None:
    with session_of(leaving(RESULT, 4, TEXT, ERROR, 4, TEXT, RESULT, 4, TEXT, REPORT, 0)) as session:
        end = run(session)
        assert (end.result, end.error, end.report) == (b"texttext", b"text", b"")
        assert (end.fault, end.stdout) == (None, b"")


def test_a_result_left_in_the_inbox_is_cut_like_any_other() -> None:
    with session_of(leaving(RESULT, 4, TEXT, RESULT, 4, TEXT)) as session:
        assert run(session, result_bytes_max=6).result == b"textte"


@pytest.mark.parametrize(
    "body",
    [
        leaving(count=-1),
        leaving(count=LEFT_BYTES_MAX + 1),
        leaving(RESULT, 5, TEXT),
        leaving(RESULT, -1, TEXT),
        leaving(RESULT, 4, TEXT, RESULT),
        leaving(RESULT, 4, TEXT, count=11),
        leaving(STDOUT, 4, TEXT),
        leaving(0, 4, TEXT),
        leaving(-1, 4, TEXT),
        leaving(7, 0),
    ],
)
def test_an_inbox_that_is_no_sequence_of_documents_ends_the_session(body: str) -> None:
    assert type(fault_of(body)) is BoundaryViolation


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("(unreachable)", "unreachable"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer_division_by_zero"),
        ("(drop (i32.load (i32.const -4)))", "memory_out_of_bounds"),
        ("(call $deep)", "stack overflowed"),
        ("(i32.store (i32.const 4128) (i32.const 3)) (unreachable)", "exited with status 3"),
    ],
)
@pytest.mark.threat("T-006")
def test_each_trap_says_what_it_was(body: str, says: str) -> None:
    fault = fault_of(body, more="(func $deep (call $deep))")
    assert type(fault) is GuestTrap
    assert says in str(fault)


# -- time ------------------------------------------------------------------------------------------

IMPORT_LOOPS = {
    "clock": "(drop (call $clock (i32.const 0)))",
    "emit of nothing": f"(drop (call $emit (i32.const 3) {INTO} (i32.const 0)))",
    "entropy": f"(drop (call $entropy {INTO} (i32.const 256)))",
    "virtual sleep": "(drop (call $sleep (i64.const 0)))",
}


@pytest.mark.threat("T-010")
@pytest.mark.parametrize("call", IMPORT_LOOPS.values(), ids=IMPORT_LOOPS.keys())
def test_a_loop_of_imports_gives_its_slice_back(call: str) -> None:
    """Host calls cost the guest little fuel: what ends a slice of them is its wall quota."""
    with session_of(f"(loop $l {call} (br $l))") as session:
        cell = session.run(Cell("", cell_limits(fuel_max=10**14, wall_ms_max=200)))
        slices = []
        fault = None
        while fault is None:
            began = monotonic_ns()
            try:
                assert isinstance(next(cell), Slice)
            except StopIteration as stop:
                fault = stop.value.fault
            slices.append(monotonic_ns() - began)
        assert type(fault) is DeadlineExceeded
        assert len(slices) >= 5
        slices.sort()
        # Other work on the machine makes each longer.
        assert slices[len(slices) // 2] < 10 * SLICE_WALL_NS


@pytest.mark.threat("T-010")
def test_imports_charge_fuel() -> None:
    with session_of(f"(loop $l {IMPORT_LOOPS['clock']} (br $l))") as session:
        end = run(session, fuel_max=100_000_000)
        assert type(end.fault) is FuelExhausted
        assert end.fuel_used == 100_000_000
        assert end.executed_ns < 2_000_000_000


@pytest.mark.threat("T-010")
def test_a_request_charges_for_what_the_host_spends_on_decoding_it() -> None:
    """Decoding is on no cell's clock; 60 G fuel, 10 s of guest, buys about as much of it."""
    body = f"(drop (call $call {INTO} (i32.const 100000)))"
    with session_of(body) as session:
        assert run(session).fuel_used > 100_000 * FUEL_PER_REQUEST_BYTE


@pytest.mark.threat("T-010", "T-019")
def test_a_loop_of_zero_sleeps_meets_the_deadline() -> None:
    """On the real clock each sleep suspends the fiber: no slice ends, and the deadline still counts."""
    body = f"(loop $l {IMPORT_LOOPS['virtual sleep']} (br $l))"
    with session_of(body, limits={"clock": "real"}) as session:
        end = run(session, fuel_max=10**14, wall_ms_max=100)
        assert type(end.fault) is DeadlineExceeded
        assert end.executed_ns < 2_000_000_000


@pytest.mark.threat("T-010")
def test_a_loop_of_requests_meets_the_deadline() -> None:
    with session_of(f"(loop $l {REQUEST} (br $l))") as session:
        end = run(session, fuel_max=10**14, wall_ms_max=50, requests_max=10**9)
        assert type(end.fault) is DeadlineExceeded


@pytest.mark.threat("T-019")
@pytest.mark.parametrize("nanoseconds", [-1, -(2**63), 1_000_000_001, 2**63 - 1])
@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_sleep_that_is_not_allowed_does_not_begin_and_the_next_ends_the_cell(
    clock: str, nanoseconds: int
) -> None:
    sleep = f"(drop (call $sleep (i64.const {nanoseconds})))"
    before = time.monotonic()
    with session_of(sleep, limits={"clock": clock}) as session:
        end = run(session)
        assert (end.fault, type(end.soft)) == (None, DeadlineExceeded)
        assert session._virtual_ns < 1_000_000_000
    assert type(fault_of(sleep + sleep, limits={"clock": clock})) is DeadlineExceeded
    assert time.monotonic() - before < 1


@pytest.mark.threat("T-007")
def test_a_flood_of_raw_requests_is_a_violation() -> None:
    asked = []

    def count(frame: bytes) -> bytes:
        asked.append(frame)
        return RESPONSE

    with session_of(f"(loop $l {REQUEST} (br $l))") as session:
        assert type(run(session, count, requests_max=3).fault) is BoundaryViolation
    assert len(asked) < 100


@pytest.mark.threat("T-027")
def test_a_cell_dropped_in_each_kind_of_wait_leaves_nothing() -> None:
    for body, limits in ((REQUEST, {}), ("(drop (call $sleep (i64.const 500000000)))", {"clock": "real"}),
                         ("(loop $l (br $l))", {})):  # fmt: skip
        for _ in range(20):
            with session_of(body, limits=limits) as session:
                cell = session.run(Cell("", cell_limits()))
                step = next(cell)
                assert isinstance(step, Requested) == (body is REQUEST)
                cell.close()
                assert session.lost


# -- modules that do not even link --------------------------------------------------------------------


@pytest.mark.threat("T-011")
@pytest.mark.parametrize(
    "extra",
    [
        '(import "rlm" "open" (func (param i32 i32) (result i32)))',
        '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))',
        '(import "env" "memory2" (memory 1))',
        '(import "rlm" "clock" (func (param i64) (result i64)))',
        '(import "rlm" "" (func))',
        '(import "" "call" (func (param i32 i32 i32 i32) (result i32)))',
        '(import "rlm" "call" (global i32))',
        '(import "rlm" "table" (table 1 funcref))',
    ],
)
def test_an_import_beside_the_six_is_refused_at_link(extra: str) -> None:
    import wasmtime

    with pytest.raises((PolicyError, wasmtime.WasmtimeError)):
        with program_of("", more_imports=extra):
            pass


@pytest.mark.threat("T-011")
@pytest.mark.parametrize(
    "more",
    [
        "(memory $two 1)",
        "(memory $shared 1 2 shared)",
        "(tag $t)",
        "(func (result i32) (return_call 6))",
        "(type $s (struct (field i32)))",
        "(func (param v128))",
        "(func (param (ref null extern)) (drop (call_ref 0 (local.get 0))))",
    ],
)
def test_features_a_guest_does_not_need_are_off(more: str) -> None:
    import wasmtime

    with pytest.raises(wasmtime.WasmtimeError):
        with program_of("", more=more):
            pass


def test_a_program_closed_twice_and_used_afterwards_is_no_crash() -> None:
    from rlm_wasm.errors import InternalError

    with program_of("") as program:
        program.close()
        program.close()
        with pytest.raises(InternalError, match="closed"):
            _ = program.pre


READ_SOME = f"(drop (call $read (i32.const 7) (i64.const 0) {INTO} (i32.const 10)))"
MIB = 1 << 20


@pytest.mark.threat("T-202")
@pytest.mark.parametrize(("pointer", "length"), OUTSIDE)
def test_what_is_read_of_an_input_goes_nowhere_but_into_guest_memory(pointer: int, length: int) -> None:
    body = f"(drop (call $read (i32.const 7) (i64.const 0) (i32.const {pointer}) (i32.const {length})))"
    assert isinstance(fault_of(body), BoundaryViolation)


@pytest.mark.threat("T-202")
@pytest.mark.parametrize("input_number", [0, 8, (1 << 24) - 1])
def test_an_input_that_is_not_there_is_told_and_costs_no_session(input_number: int) -> None:
    body = f"""(call $read (i32.const {input_number}) (i64.const 0) {INTO} (i32.const 10))
               (if (i32.ne (i32.const -44)) (then unreachable))"""
    with session_of(body) as session:
        assert run(session).fault is None


@pytest.mark.threat("T-202")
def test_an_answer_of_the_host_longer_than_was_asked_never_reaches_the_guest() -> None:
    with session_of(READ_SOME) as session, pytest.raises(InternalError):
        drive(session.run(Cell("", cell_limits())), answer, lambda asked: InputPart(b"x" * 11))


@pytest.mark.threat("T-202")
def test_a_loop_of_reads_ends_with_its_fuel() -> None:
    body = f"(loop $again {READ_SOME} (br $again))"
    asked: list[InputAsked] = []

    def read(wanted: InputAsked) -> InputPart:
        asked.append(wanted)
        return InputPart(b"x" * wanted.length)

    with session_of(body) as session:
        end = drive(session.run(Cell("", cell_limits(fuel_max=30_000_000))), answer, read)
    assert isinstance(end.fault, FuelExhausted)
    assert len(asked) <= 30_000_000 // 100_000 + 1


@pytest.mark.threat("T-202")
def test_searching_is_charged_by_the_byte_that_is_looked_at() -> None:
    # A search for one byte in 64 MiB: 17 bytes at FREE, of which the first eight are its end.
    body = f"""(i64.store {INTO} (i64.const {64 * MIB}))
               (i32.store8 (i32.add {INTO} (i32.const 16)) (i32.const 120))
               (loop $again (drop (call $read (i32.const {2 << 24 | 7}) (i64.const 0) {INTO} (i32.const 17)))
                 (i64.store {INTO} (i64.const {64 * MIB})) (br $again))"""
    asked: list[InputAsked] = []

    def read(wanted: InputAsked) -> InputPart:
        asked.append(wanted)
        return InputPart(encode_found(-1, 64 * MIB))

    with session_of(body) as session:
        end = drive(session.run(Cell("", cell_limits(fuel_max=10 * 4 * 64 * MIB))), answer, read)
    assert isinstance(end.fault, FuelExhausted)
    assert 9 <= len(asked) <= 10


@pytest.mark.threat("T-202")
def test_no_input_is_read_while_one_is_loaded() -> None:
    with session_of(commit=f"{READ_SOME} (i32.const 0)") as session, pytest.raises(BoundaryViolation):
        drive(session.load("x", "y"))
