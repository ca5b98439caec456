"""The life of one call: orders that would abort the process are refused before wasmtime sees them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import wasmtime

from rlm_wasm.errors import CellCancelled, InternalError
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import Requested
from rlm_wasm.vm import fiber_unsafe, imports
from rlm_wasm.vm.session import drive
from tests.support.sandbox_facts import cell_limits
from tests.support.wat_guest import session_of

pytestmark = [pytest.mark.threat("T-027"), pytest.mark.usefixtures("healthy_host")]

REQUEST = "(drop (call $call (i32.const 0) (i32.const 2)))"


def test_a_finished_call_is_not_polled_again() -> None:
    with session_of("") as session:
        exchange = session._start(cell_limits(), in_cell=False).exchange
        call = session._instance.begin(exchange, "rlm_exec", (0, 0, 0), 1)
        while not call.poll():
            pass
        assert (call.done, call.result, call.take_trap()) == (True, 0, None)
        with pytest.raises(InternalError, match="finished call"):
            call.poll()
        call.close()
        call.close()


def test_a_dropped_call_is_not_polled_again() -> None:
    with session_of(REQUEST) as session:
        exchange = session._start(cell_limits(), in_cell=True).exchange
        call = session._instance.begin(exchange, "rlm_exec", (0, 0, 0), 1)
        call.poll()
        call.close()
        with pytest.raises(InternalError):
            call.poll()


def test_calls_share_a_frame_one_after_another() -> None:
    with session_of(REQUEST, alloc="(i32.add (local.get 0) (i32.const 1))") as session:
        exchange, instance = session._start(cell_limits(), in_cell=True).exchange, session._instance
        dropped = instance.begin(exchange, "rlm_exec", (0, 0, 0), 1)
        assert not dropped.poll()
        frames = [dropped._frame]
        dropped.close()
        for number in (7, -3):
            call = instance.begin(exchange, "rlm_alloc", (number,), 1)
            frames.append(call._frame)
            while not call.poll():
                pass
            assert (call.result, call.take_trap()) == (number + 1, None)
        assert frames[0] is frames[1] is frames[2] is not None


def test_what_a_failed_call_says_is_not_written_over_by_the_next() -> None:
    with session_of("unreachable") as session:
        exchange, instance = session._start(cell_limits(), in_cell=True).exchange, session._instance
        failed = instance.begin(exchange, "rlm_exec", (0, 0, 0), 1)
        while not failed.poll():
            pass
        after = instance.begin(exchange, "rlm_alloc", (1,), 1)
        assert after._frame is not failed._frame
        while not after.poll():
            pass
        trap = failed.take_trap()
        assert isinstance(trap, wasmtime.Trap)
        assert trap.trap_code is wasmtime.TrapCode.UNREACHABLE
        assert after.take_trap() is None


NO_STACK = """
import resource
from pathlib import Path
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm.session import drive
from tests.support.sandbox_facts import cell_limits
from tests.support.wat_guest import session_of

with session_of("") as session:
    had = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (had + (8 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
    fault = drive(session.run(Cell("", cell_limits()))).fault
    print(type(fault).__name__, fault)
"""


def test_a_guest_that_the_kernel_refuses_a_stack_ends_with_the_kernels_words() -> None:
    done = subprocess.run([sys.executable, "-c", NO_STACK], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("GuestTrap the engine could not run the guest: "), done.stderr
    if not fiber_unsafe.WANTED:  # a stack of the engine's own
        assert "Cannot allocate memory" in done.stdout


def test_an_unknown_export_is_our_bug_and_no_crash() -> None:
    with session_of("") as session, pytest.raises(InternalError, match="no export"):
        session._instance.begin(session._start(cell_limits(), in_cell=False).exchange, "rlm_nothing", (), 0)


def test_a_session_closes_in_the_middle_of_a_cell_once_its_operation_is_closed() -> None:
    with session_of(REQUEST) as session:
        cell = session.run(Cell("", cell_limits()))
        assert isinstance(next(cell), Requested)
        cell.close()
        session.close()
        session.close()


def test_an_error_thrown_into_a_cell_is_its_fault_and_loses_the_session() -> None:
    with session_of(REQUEST) as session:
        cell = session.run(Cell("", cell_limits()))
        next(cell)
        with pytest.raises(StopIteration) as stop:
            cell.throw(CellCancelled("enough"))
        assert type(stop.value.value.fault) is CellCancelled
        assert session.lost


def test_a_waiting_cell_resumed_without_a_response_is_our_bug() -> None:
    with session_of(REQUEST) as session:
        cell = session.run(Cell("", cell_limits()))
        next(cell)
        with pytest.raises(InternalError, match="without one"):
            cell.send(None)
        assert session.lost


def test_no_guest_is_current_between_polls() -> None:
    with session_of(REQUEST) as session:
        cell = session.run(Cell("", cell_limits()))
        next(cell)
        assert imports._current.handler is None
        cell.close()


def test_sessions_suspended_together_answer_in_any_order() -> None:
    """Each fiber's pending state is its own: a response cannot reach another session."""
    body = """(drop (call $call (i32.const 0) (i32.const 2)))
              (drop (call $emit (i32.const 1) (i32.const 8192)
                                (call $take (i32.const 8192) (i32.const 100))))"""
    from contextlib import ExitStack

    with ExitStack() as stack:
        sessions = [stack.enter_context(session_of(body)) for _ in range(20)]
        cells = [session.run(Cell("", cell_limits())) for session in sessions]
        for cell in cells:
            assert isinstance(next(cell), Requested)
        for number in reversed(range(20)):
            with pytest.raises(StopIteration) as stop:
                cells[number].send(f"for {number}".encode())
            assert stop.value.value.stdout == f"for {number}".encode()


@pytest.mark.guest
def test_a_cell_runs_on_a_thread_that_is_not_the_main_one(make_session) -> None:
    session, results = make_session(), []
    thread = threading.Thread(target=lambda: results.append(drive(session.run(Cell("6*7", cell_limits())))))
    thread.start()
    thread.join()
    assert results[0].result == b"42"


@pytest.mark.threat("T-026")
def test_workers_on_two_threads_do_not_mix_up_their_guests() -> None:
    """A poll runs without the GIL: one guest calls the host in the middle of another's poll."""
    body = """(drop (call $entropy (i32.const 8192) (i32.const 1)))
              (drop (call $emit (i32.const 1) (i32.const 8192) (i32.const 1)))"""
    inside, go_on = threading.Event(), threading.Event()

    def slow_entropy(count: int) -> bytes:
        if count == 1:  # not the session's seed
            inside.set()
            go_on.wait(10)
        return b"A" * count

    with (
        session_of(body, entropy=slow_entropy) as first,
        session_of(body, entropy=lambda count: b"B" * count) as second,
    ):
        ends = []
        thread = threading.Thread(target=lambda: ends.append(drive(first.run(Cell("", cell_limits())))))
        thread.start()
        assert inside.wait(10)
        ends.append(drive(second.run(Cell("", cell_limits()))))
        go_on.set()
        thread.join()
        assert [end.stdout for end in ends] == [b"B", b"A"]
