"""Random programs over the seven imports, with arguments no honest guest would use.

The guest is a tiny interpreter: 24-byte records of an operation and three arguments, which this test
writes into its memory. Whatever it is told to do, only a GuestError comes out, and the host is well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, GuestError
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_answers import answer as input_answer
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.input_reads import InputAsked, InputPart
from rlm_wasm.vm.instance import Program
from rlm_wasm.vm.session import Session, drive
from tests.support.host_health import assert_same, health
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits
from tests.support.wat_guest import MEMORY_BYTES, facts, program_of

pytestmark = pytest.mark.threat("T-001", "T-008", "T-012", "T-202")

PROGRAM_AT = 16_384
COUNT_AT = PROGRAM_AT - 4
CALL, TAKE, EMIT, CLOCK, ENTROPY, SLEEP, GROW, READ, LOAD = range(9)
RECORD = struct.Struct("<iiiiq")

INTERPRETER = f"""
(local $at i32)
(local.set $at (i32.const {PROGRAM_AT}))
(local.set $i (i32.load (i32.const {COUNT_AT})))
(block $end (loop $next
  (br_if $end (i32.eqz (local.get $i)))
  (block $b8 (block $b7 (block $b6 (block $b5 (block $b4 (block $b3 (block $b2 (block $b1 (block $b0
    (br_table $b0 $b1 $b2 $b3 $b4 $b5 $b6 $b7 $b8 (i32.load (local.get $at))))
    (drop (call $call_into (i32.load offset=4 (local.get $at)) (i32.load offset=8 (local.get $at))
                           (i32.load offset=12 (local.get $at)) (i32.load offset=16 (local.get $at))))
    (br $b8))
    (drop (call $take (i32.load offset=4 (local.get $at)) (i32.load offset=8 (local.get $at)))) (br $b8))
    (drop (call $emit (i32.load offset=12 (local.get $at)) (i32.load offset=4 (local.get $at))
                      (i32.load offset=8 (local.get $at)))) (br $b8))
    (drop (call $clock (i32.load offset=4 (local.get $at)))) (br $b8))
    (drop (call $entropy (i32.load offset=4 (local.get $at)) (i32.load offset=8 (local.get $at)))) (br $b8))
    (drop (call $sleep (i64.load offset=16 (local.get $at)))) (br $b8))
    (drop (memory.grow (i32.load offset=4 (local.get $at)))) (br $b8))
    (drop (call $read (i32.load offset=12 (local.get $at)) (i64.load offset=16 (local.get $at))
                      (i32.load offset=4 (local.get $at)) (i32.load offset=8 (local.get $at)))) (br $b8))
  (local.set $at (i32.add (local.get $at) (i32.const {RECORD.size})))
  (local.set $i (i32.sub (local.get $i) (i32.const 1)))
  (br $next)))
"""

EDGES = [
    0,
    1,
    2,
    255,
    256,
    257,
    4_096,
    8_192,
    MEMORY_BYTES - 1,
    MEMORY_BYTES,
    MEMORY_BYTES + 1,
    4 * MEMORY_BYTES,
]
I32 = (
    st.sampled_from([sign * edge for edge in EDGES for sign in (1, -1)])
    | st.integers(0, MEMORY_BYTES)
    | st.integers(-(2**31), 2**31 - 1)
)
I64 = st.sampled_from([0, 1, -1, 10**6, 10**9, 10**9 + 1]) | st.integers(-(2**63), 2**63 - 1)
# What is asked of which input; of 7 there is one.
ASKED = st.builds(lambda op, number: op << 24 | number, st.integers(0, 6), st.sampled_from([0, 7, 2**24 - 1]))
STEPS = st.tuples(st.integers(CALL, LOAD), I32, I32, st.integers(-1, 6) | I32 | ASKED, I64)
INPUT = bytes(range(256)) * 9
PROGRAMS = st.lists(STEPS, max_size=12)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with program_of(INTERPRETER) as made:
        yield made


def run(program: Program, steps: list[tuple[int, int, int, int, int]], response: bytes, clock: str) -> None:
    before = health()
    session = Session(
        program,
        facts(),
        session_limits(memory_bytes_max=3 * MEMORY_BYTES, clock=clock),
        boundary_limits(frame_bytes_max=1_000),
        lambda count: b"\xa5" * count,
    )
    try:
        code = b"".join(RECORD.pack(*step) for step in steps)
        session._memory.write(COUNT_AT, struct.pack("<I", len(steps)) + code)
        frames: list[bytes] = []

        def answer(frame: bytes) -> bytes:
            frames.append(frame)
            return response

        limits = cell_limits(
            fuel_max=100_000_000_000, requests_max=3, sleep_ms_max=2, stdout_bytes_max=500,
            stderr_bytes_max=500, result_bytes_max=500,
        )  # fmt: skip
        held = HeldInputs()
        for number in range(1, 8):
            assert held.add(f"v{number}", f"{number}", INPUT).number == number
        asked: list[InputAsked] = []

        def read(wanted: InputAsked) -> InputPart:
            asked.append(wanted.checked())
            return input_answer(held, wanted)

        end = drive(session.run(Cell("", limits)), answer, read)
        assert end.fault is None or isinstance(end.fault, GuestError)
        assert session.lost == (end.fault is not None)
        assert all(len(frame) <= 1_000 for frame in frames)
        # Whatever it asks of its inputs, it has paid for.
        assert sum(each.fuel for each in asked) <= end.fuel_used
        assert len(end.stdout) <= 500
        assert len(end.stderr) <= 500
        assert len(end.result or b"") <= 500
        assert end.memory_bytes <= 3 * MEMORY_BYTES
        _check_against_a_model(steps, response, end.fault)
    finally:
        session.close()
    assert_same(before, health())


def _check_against_a_model(
    steps: list[tuple[int, int, int, int, int]], response: bytes, fault: GuestError | None
) -> None:
    """Our own books for the first memory access of a program: inside or a violation, nothing between."""
    if not steps or steps[0][0] not in (CALL, TAKE, ENTROPY, READ):
        return
    operation, pointer, length, reply, capacity = steps[0]
    start, count = pointer % 2**32, length % 2**32
    # A request that is too long is refused without being read.
    cap = {CALL: MEMORY_BYTES, TAKE: -1, ENTROPY: 256, READ: 2**20 if reply >> 24 == 0 else 8}[operation]
    outside = count > cap or start + count > MEMORY_BYTES
    if operation == READ:
        # Of what lies inside, a size and a part are all that can be told from here.
        op = reply >> 24
        outside = (
            outside or op not in (0, 1) or not 0 <= capacity <= 2**62 or (op == 1 and (count < 8 or capacity))
        )
        if op in (2, 3, 4):
            return
    if operation == CALL:
        outside = outside or reply % 2**32 + capacity % 2**32 > MEMORY_BYTES
    if outside:
        assert type(fault) is BoundaryViolation
    elif len(steps) == 1:
        assert fault is None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=PROGRAMS, response=st.binary(max_size=300), clock=st.sampled_from(["virtual", "real"]))
@example(steps=[(CALL, 0, 2, 0, 0), (TAKE, MEMORY_BYTES - 1, 1, 0, 0)], response=b"x", clock="virtual")
@example(steps=[(GROW, 2, 0, 0, 0), (TAKE, MEMORY_BYTES, 1, 0, 0)], response=b"", clock="virtual")
@example(steps=[(SLEEP, 0, 0, 0, 10**6), (SLEEP, 0, 0, 0, 2**63 - 1)], response=b"", clock="real")
@example(steps=[(READ, 8_192, 100, 7, 5), (READ, 8_192, 8, 1 << 24 | 7, 0)], response=b"", clock="virtual")
@example(steps=[(READ, MEMORY_BYTES - 1, 2, 7, 0)], response=b"", clock="virtual")
@example(steps=[(READ, 8_192, 40, 3 << 24 | 7, 0)], response=b"", clock="virtual")
@example(steps=[(CLOCK, -(2**31), 0, 0, 0)] * 12, response=b"", clock="real")
def test_only_guest_errors_come_out_of_a_random_program(
    program: Program, steps: list[tuple[int, int, int, int, int]], response: bytes, clock: str
) -> None:
    run(program, steps, response, clock)
