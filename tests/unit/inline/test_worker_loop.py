"""One thread, many sessions: fair slices, free waits, and endings that touch nobody else."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rlm_wasm.errors import (
    CellCancelled,
    DeadlineExceeded,
    InternalError,
    MemoryExceeded,
    PolicyError,
    UsageError,
)
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import AnswerRequest, InterruptOperation, Rebase, StartCell, Stop
from rlm_wasm.results import CellResult
from rlm_wasm.vm import imports
from rlm_wasm.vm import session_scheduler as seats_module
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.warm_pool import WarmPool
from tests.support.sandbox_facts import cell_limits
from tests.support.worker_facts import SECONDS_MAX, Seat, worker_loop

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

ENDLESS = "while True: pass"


@pytest.fixture
def open_seat(healthy_host: None) -> Iterator[Callable[..., Seat]]:
    with worker_loop() as seat:
        yield seat


def test_cells_run_and_variables_stay(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat()
    seat.load("context", "text")
    assert seat.done().error is None
    assert seat.result("n = len(context)\nn") == "4"
    assert seat.result("n + 1") == "5"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_ends_what_had_begun_and_what_waited_in_its_queue(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, queued = open_seat(), open_seat()
    entered, go_on = threading.Event(), threading.Event()

    def bug(scheduler: seats_module.SessionScheduler) -> None:
        entered.set()
        go_on.wait(SECONDS_MAX)
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(seats_module.SessionScheduler, "turn", bug)
    begun.start("1")
    assert entered.wait(SECONDS_MAX)
    queued.start("1")
    go_on.set()
    for seat in (begun, queued):
        assert isinstance(seat.done().error, UsageError)


def test_guests_run_on_a_thread_that_is_not_the_main_one(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler, which Python runs on the main thread, can then never raise inside a callback."""
    names = set()
    real = imports.enter
    monkeypatch.setattr(
        imports, "enter", lambda handler: (names.add(threading.current_thread().name), real(handler))
    )
    assert open_seat().result("1") == "1"
    assert names == {"rlm-wasm-worker"}
    assert threading.main_thread().name not in names


@pytest.mark.threat("T-018")
def test_endless_sessions_share_the_thread_turn_by_turn_and_a_newcomer_gets_its_own(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = [open_seat() for _ in range(3)]
    turns: list[int] = []
    real = imports.enter
    monkeypatch.setattr(imports, "enter", lambda handler: (turns.append(id(handler)), real(handler)))
    for seat in greedy:
        seat.start(ENDLESS, fuel_max=10**13)
    newcomer = open_seat()
    assert newcomer.result("6 * 7") == "42"
    assert newcomer.result("7 * 7") == "49"
    assert all(seat.reports.empty() for seat in greedy), "the newcomer had to wait for an end"
    for seat in greedy:
        seat.close()
        seat.done()
    seen = turns[len(turns) // 2 :]  # by then all three have begun
    assert not [1 for one, two in itertools.pairwise(seen[:20]) if one == two], "two slices in a row"


@pytest.mark.threat("T-018")
def test_the_same_work_begun_together_ends_together(open_seat: Callable[..., Seat]) -> None:
    greedy = [open_seat() for _ in range(3)]
    for seat in greedy:
        seat.start(ENDLESS, fuel_max=2_000_000_000)
    ends = [seat.done().result for seat in greedy]
    assert [end.outcome for end in ends if end] == ["fuel_exhausted"] * 3
    shares = [end.executed_ns for end in ends if end]
    assert max(shares) < 5 * min(shares)


@pytest.mark.threat("T-018")
def test_two_endless_sessions_both_make_progress(open_seat: Callable[..., Seat]) -> None:
    """Turn by turn: between any two requests of one, the other has had its own."""
    source = "i = 0\nwhile True:\n for _ in range(200_000): i += 1\n llm_query(str(i))"
    scheduler = [open_seat(), open_seat()]
    for seat in scheduler:
        seat.start(source, requests_max=1_000)
    for _ in range(3):
        for seat in scheduler:
            assert seat.requested()
            seat.respond("on")
    for seat in scheduler:
        seat.close()


def test_a_session_that_waits_for_the_host_spends_no_deadline(open_seat: Callable[..., Seat]) -> None:
    """While the first waits, the second executes for longer than the first's whole deadline."""
    waiting, busy = open_seat(), open_seat()
    waiting.start("llm_query('x')", wall_ms_max=150)
    waiting.requested()
    busy.start(ENDLESS, wall_ms_max=300)
    assert isinstance(busy.done().result.error, DeadlineExceeded)
    waiting.respond("late but fine")
    result = waiting.done().result
    assert (result.outcome, result.result) == ("completed", "'late but fine'")
    assert result.executed_ns < 150_000_000


@pytest.mark.threat("T-018")
def test_a_thousand_sessions_wait_at_once_on_one_thread(open_seat: Callable[..., Seat]) -> None:
    threads = threading.active_count()
    scheduler = [open_seat() for _ in range(1_000)]
    for seat in scheduler:
        seat.start(f"llm_query('{seat.number}')")
    for seat in scheduler:
        assert f'"{seat.number}"'.encode() in seat.requested()
    assert threading.active_count() <= threads  # one of an earlier test may end meanwhile
    for seat in reversed(scheduler):
        seat.respond(f"answer {seat.number}")
    for seat in scheduler:
        assert seat.done().result.result == f"'answer {seat.number}'"
    for seat in scheduler:
        seat.close()


def test_a_real_sleep_wakes_by_itself_and_lets_others_run(open_seat: Callable[..., Seat]) -> None:
    sleeper, other = open_seat(clock="real"), open_seat()
    began = time.monotonic()
    sleeper.start("import time\nt = time.monotonic()\ntime.sleep(0.2)\ntime.monotonic() - t >= 0.2")
    assert other.result("6 * 7") == "42"
    result = sleeper.done().result
    assert result.result == "True"
    assert time.monotonic() - began >= 0.2
    assert result.executed_ns < 150_000_000


def test_sleepers_wake_in_the_order_of_their_times(open_seat: Callable[..., Seat]) -> None:
    order: list[int] = []
    scheduler = [open_seat(clock="real") for _ in range(3)]
    for seat, delay in zip(scheduler, (0.15, 0.05, 0.1), strict=True):
        put = seat.reports.put
        number = seat.number
        sink = lambda report, n=number, put=put: (order.append(n), put(report))  # noqa: E731
        seat.loop._scheduler._scheduler[number].sink = sink
        seat.start(f"import time\ntime.sleep({delay})")
    for seat in scheduler:
        seat.done()
    assert order == [scheduler[1].number, scheduler[2].number, scheduler[0].number]


# -- endings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "waits"),
    [(ENDLESS, False), ("llm_query('x')", True), ("import time\ntime.sleep(0.9)", False)],
)
def test_stop_ends_a_cell_whatever_it_does(open_seat: Callable[..., Seat], source: str, waits: bool) -> None:
    seat = open_seat(clock="real")
    seat.start(source, fuel_max=10**15)
    if waits:
        seat.requested()
    seat.loop.submit(Stop(seat.number, CellCancelled("enough")))
    done = seat.done()
    ended = done.error or done.result.error
    assert isinstance(ended, CellCancelled)
    assert open_seat().result("6 * 7") == "42"


def test_stop_before_the_first_slice_leaves_the_session_alive(open_seat: Callable[..., Seat]) -> None:
    seat, blocker = open_seat(), open_seat()
    blocker.start("llm_query('x')")
    blocker.requested()
    # In one go, so that both commands are taken before the loop runs anything.
    taken = threading.Event()
    real = seat.loop._take_commands
    seat.loop._take_commands = lambda: (taken.wait(10), real())
    seat.start("x = 1")
    seat.loop.submit(Stop(seat.number, CellCancelled("enough")))
    taken.set()
    blocker.respond("wake up")
    done = seat.done()
    assert isinstance(done.error, CellCancelled) or done.result.outcome in ("cancelled", "completed")


def test_stop_without_an_operation_is_ignored(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat()
    seat.loop.submit(Stop(seat.number, CellCancelled("enough")))
    assert seat.result("6 * 7") == "42"


@pytest.mark.threat("T-008")
def test_a_response_nobody_waits_for_is_dropped(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat()
    seat.respond("early")
    seat.start("llm_query('a')")
    seat.requested()
    seat.respond("first")
    seat.respond("second")
    assert seat.done().result.result == "'first'"
    seat.start("llm_query('b')")
    seat.requested()
    seat.respond("third")
    assert seat.done().result.result == "'third'"
    seat.loop.submit(AnswerRequest(999, b"{}"))
    assert seat.result("6 * 7") == "42"


@pytest.mark.parametrize("source", [ENDLESS, "llm_query('x')", "import time\ntime.sleep(0.9)"])
def test_closing_in_the_middle_of_a_cell_reports_and_frees(
    open_seat: Callable[..., Seat], source: str
) -> None:
    seat = open_seat(clock="real")
    seat.start(source, fuel_max=10**15)
    if "llm" in source:
        seat.requested()
    seat.close()
    assert isinstance(seat.done().error, UsageError)
    seat.close()
    assert open_seat().result("1") == "1"
    assert seat.loop.open_sessions == 1


def test_a_busy_session_refuses_a_second_operation_and_goes_on(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat()
    seat.start("llm_query('x')")
    seat.requested()
    seat.start("1")
    assert isinstance(seat.done().error, UsageError)
    seat.respond("still here")
    assert seat.done().result.result == "'still here'"


def test_stopping_the_loop_ends_every_session() -> None:
    with worker_loop() as open_seat:
        scheduler = [open_seat() for _ in range(5)]
        for seat in scheduler:
            seat.start(ENDLESS, fuel_max=10**15)
    for seat in scheduler:
        assert isinstance(seat.done().error, UsageError)


def test_a_policy_below_the_image_refuses_the_session(open_seat: Callable[..., Seat]) -> None:
    with pytest.raises(PolicyError):
        open_seat(memory_bytes_max=65_536)


def test_an_input_without_room_is_an_error_and_the_session_lives(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat(memory_bytes_max=48 << 20)
    seat.load("context", "x" * (40 << 20))
    assert isinstance(seat.done().error, MemoryExceeded)
    assert seat.result("6 * 7") == "42"


@pytest.mark.threat("T-018")
def test_a_bug_in_one_session_is_typed_and_others_live(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = open_seat(), open_seat()
    other.start("llm_query('x')")
    other.requested()

    def explode(self: Session, cell: object, **more: object) -> object:
        raise RuntimeError("a bug of ours")
        yield

    monkeypatch.setattr(Session, "run", explode)
    broken.start("1")
    error = broken.done().error
    monkeypatch.undo()
    assert isinstance(error, InternalError)
    assert "a bug of ours" in str(error)
    other.respond("alive")
    assert other.done().result.result == "'alive'"
    broken.start("1")
    assert isinstance(broken.done().error, UsageError)  # its session is closed


def test_a_bug_while_opening_is_typed_and_others_live(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object, **more: object) -> object:
        raise RuntimeError("a bug of ours")

    other = open_seat()
    monkeypatch.setattr(seats_module, "Session", explode)
    with pytest.raises(InternalError, match="a bug of ours"):
        open_seat()
    monkeypatch.undo()
    assert other.result("6 * 7") == "42"


def test_a_sink_that_fails_loses_its_own_session_and_no_other(open_seat: Callable[..., Seat]) -> None:
    """As when the event loop that a session reports to is gone."""
    orphan, other = open_seat(), open_seat()

    def gone(report: object) -> None:
        raise RuntimeError("Event loop is closed")

    orphan.loop._scheduler._scheduler[orphan.number].sink = gone
    orphan.start("llm_query('x')")
    assert other.result("6 * 7") == "42"
    assert other.result("7 * 7") == "49"
    assert orphan.loop.open_sessions == 1


def test_a_command_that_comes_while_the_loop_stops_is_refused_and_not_forgotten(
    open_seat: Callable[..., Seat],
) -> None:
    """Nothing would ever report on a command that is behind the end of the queue."""
    seat, other = open_seat(), open_seat()
    held, go_on = threading.Event(), threading.Event()

    def hold(report: object) -> None:
        held.set()
        go_on.wait(30)

    loop = seat.loop
    loop._scheduler._scheduler[seat.number].sink = hold
    seat.start("1")
    assert held.wait(30)  # the worker's thread is busy
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    try:
        while loop._commands.empty():
            pass
        with pytest.raises(UsageError, match="closed"):
            other.start("1")
    finally:
        go_on.set()
        stopping.join()


def test_an_interrupt_right_behind_its_cell_is_not_lost(open_seat: Callable[..., Seat]) -> None:
    """It comes before the cell has run at all; the cell must not then run to its limits."""
    seat = open_seat()
    for _ in range(20):
        seat.start(ENDLESS, fuel_max=200_000_000)
        seat.loop.submit(InterruptOperation(seat.number))
        result = seat.done().result
        assert result is not None
        assert (result.outcome, result.session_state) == ("cancelled", "alive")
    seat.loop.submit(InterruptOperation(seat.number))  # nothing runs: it is for no later cell
    assert seat.result("6 * 7") == "42"


@pytest.mark.threat("T-031")
def test_an_idle_worker_prepares_sessions_and_the_next_ones_come_from_there(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    full = threading.Event()
    take, work = WarmPool.take, WarmPool.work

    def noted(self: WarmPool) -> object:
        given.append(take(self))
        return given[-1]

    def worked(self: WarmPool) -> None:
        work(self)
        if not self.wants:
            full.set()

    monkeypatch.setattr(WarmPool, "take", noted)
    monkeypatch.setattr(WarmPool, "work", worked)
    first = open_seat()
    assert given == [None]
    assert full.wait(SECONDS_MAX)
    second = open_seat()
    assert given[1] is not None
    assert [first.result("x = 1; x"), second.result("'x' in globals()")] == ["1", "False"]


@pytest.mark.threat("T-018", "T-031")
def test_a_worker_with_a_runnable_session_prepares_nothing(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[int] = []
    monkeypatch.setattr(WarmPool, "work", lambda self: worked.append(1))
    busy = open_seat()
    busy.start(ENDLESS, fuel_max=10**13)
    others = [open_seat() for _ in range(3)]
    worked.clear()  # before its cell began the worker may have been idle
    for _ in range(3):
        assert [seat.result("6 * 7") for seat in others] == ["42"] * 3
    assert not worked
    busy.close()
    busy.done()


def test_a_worker_may_be_told_to_prepare_nothing() -> None:
    with worker_loop(prepared_max=0) as open_seat:
        assert [open_seat().result("1") for _ in range(3)] == ["1"] * 3


@pytest.mark.threat("T-022")
def test_a_session_of_a_worker_goes_back_to_before_the_cell_that_broke_its_repl(
    open_seat: Callable[..., Seat],
) -> None:
    seat = open_seat()

    def run(source: str) -> CellResult:
        cell = Cell(source, cell_limits(), report_variables=True)
        seat.loop.submit(StartCell(seat.number, cell, 16 << 20))
        result = seat.done().result
        assert result is not None
        return result

    run("kept = 'here'")
    run("import rlm_repl\nrlm_repl._restore = None")
    broken = run("x = 1")
    assert (broken.outcome, broken.session_state) == ("guest_trap", "restored")
    assert "an earlier cell broke" in str(broken.error)
    assert run("kept, 'x' in globals()").result == "('here', False)"
    run("import rlm_repl\nrlm_repl._restore = None")
    seat.loop.submit(Rebase(seat.number))
    assert seat.done().error is None
    lost = run("x = 1")  # nothing older than the new origin is kept
    assert lost.session_state == "lost"
