"""Where an event loop runs a guest's turn itself: only a brief one, in order, and nobody waits for it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from anyio.lowlevel import EventLoopToken

from rlm_wasm.errors import CellCancelled
from rlm_wasm.host.answers import Answerer, Reply
from rlm_wasm.ids import SessionId
from rlm_wasm.inline.connection import InlineConnection
from rlm_wasm.inline.disturbance import Disturbance
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.inline.loop_mailbox import LoopMailbox
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import (
    AnswerRequest,
    Close,
    Command,
    InterruptOperation,
    Open,
    Report,
    Requested,
    StartCell,
    Stop,
)
from rlm_wasm.vm import imports
from rlm_wasm.vm import session_scheduler as seats_module
from rlm_wasm.vm.import_handler import FUEL_PER_VIRTUAL_NS
from rlm_wasm.vm.session_scheduler import SessionScheduler
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits
from tests.support.worker_facts import SECONDS_MAX, Seat, worker_loop

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

MANY = {"requests_max": 100_000, "fuel_max": 10**13}
ASKING = "for _ in range(200): llm_query('x')"
ENDLESS = "while True: pass"


@pytest.fixture
def open_seat(healthy_host: None) -> Iterator[Callable[..., Seat]]:
    # With nothing to prepare while it is idle: the thread sleeps until it is told something.
    with worker_loop(prepared_max=0) as seat:
        yield seat


@pytest.fixture(autouse=True)
def any_turn_is_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is; a test that wants one that is not says so."""
    monkeypatch.setattr(seats_module, "BRIEF_NS", 10**12)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that ran a guest, one for each time."""
    names: list[str] = []
    real = imports.enter
    monkeypatch.setattr(
        imports, "enter", lambda handler: (names.append(threading.current_thread().name), real(handler))
    )
    return names


def asking(seat: Seat, source: str = ASKING) -> AnswerRequest:
    """Let a guest ask, and be known as one that asks soon; return the response to its question."""
    seat.start(source, **MANY)
    seat.requested()
    seat.respond("ok")
    return AnswerRequest(seat.number, echo(seat.requested()))


class Echo(Answerer):
    def ask(self, frame: bytes, reply: Reply) -> None:
        reply(echo(frame))


async def run(source: str) -> None:
    """StartCell a cell in a session of a worker of its own, whose questions are answered at once."""
    async with InlineWorker() as worker, await worker.session(session_limits(), boundary_limits()) as session:
        result = await session.run(Cell(source, cell_limits(**MANY)), Echo())
        assert result.outcome == "completed", result


# -- the loop lends its scheduler ------------------------------------------------------------------------


def test_who_borrows_the_seats_runs_the_turn_of_a_guest_that_asks_soon(
    open_seat: Callable[..., Seat], threads: list[str]
) -> None:
    seat = open_seat()
    response = asking(seat)
    threads.clear()
    with seat.loop.borrowed() as scheduler:
        assert scheduler is not None
        assert scheduler.answer(response)
    # Reported before `answer` returned, so nobody has to be woken for it.
    assert seat.reports.get_nowait()
    assert threads == [threading.current_thread().name]


def test_a_guest_that_computed_before_it_asked_is_left_to_the_thread(
    open_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats_module, "BRIEF_NS", 0)
    seat = open_seat()
    response = asking(seat)
    with seat.loop.borrowed() as scheduler:
        assert scheduler is not None
        assert not scheduler.answer(response)
    seat.loop.submit(response)
    seat.requested()


def test_a_guest_that_pretends_to_be_brief_is_believed_less_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It asks twice, quickly, and computes after the second answer: on the event loop, if that lets it."""
    monkeypatch.setattr(seats_module, "BRIEF_NS", 500_000)
    scheduler = SessionScheduler(
        load_guest_program, prepared_max=0, clock=lambda: fuel_used() // FUEL_PER_VIRTUAL_NS
    )
    reports: list[Report] = []

    def fuel_used() -> int:
        seat = scheduler._scheduler.get(ONE)
        execution = seat and seat.session._execution
        return execution.exchange.fuel_used() if execution else 0

    source = "while True:\n llm_query('x')\n llm_query('x')\n sum(range(100_000))"
    scheduler.perform(Open(ONE, session_limits(), boundary_limits(), os.urandom, reports.append))
    scheduler.perform(StartCell(ONE, Cell(source, cell_limits(**MANY))))
    lent = asked = 0
    while asked < 200:
        if not isinstance(reports[-1], Requested):
            scheduler.turn()
            continue
        asked += 1
        response = AnswerRequest(ONE, echo(reports.pop().frame))
        if scheduler.answer(response):
            lent += 1
        else:
            scheduler.perform(response)
    scheduler.close_all()
    # Both answers of the first round; then it never asks quickly twice in a row again.
    assert lent == 2


def test_the_seats_are_not_lent_while_a_guest_computes(open_seat: Callable[..., Seat]) -> None:
    busy, asks = open_seat(), open_seat()
    asking(asks)
    busy.start(ENDLESS, wall_ms_max=300_000, fuel_max=10**15)
    until = time.monotonic() + SECONDS_MAX
    lent = True
    while lent and time.monotonic() < until:  # until the thread has taken the command
        with busy.loop.borrowed() as scheduler:
            lent = scheduler is not None
    assert not lent


def test_the_thread_goes_on_with_what_a_borrower_leaves(open_seat: Callable[..., Seat]) -> None:
    """The turn after the answer is longer than a slice: the rest of it is the thread's."""
    seat = open_seat()
    response = asking(seat, "for _ in range(2): llm_query('x')\nsum(range(2_000_000))")
    with seat.loop.borrowed() as scheduler:
        assert scheduler is not None
        assert scheduler.answer(response)
    done = seat.done()
    assert done.result is not None
    assert done.result.result == str(sum(range(2_000_000)))


def test_a_sleeper_that_a_borrower_leaves_wakes(open_seat: Callable[..., Seat]) -> None:
    seat = open_seat(clock="real")
    response = asking(seat, "import time\nfor _ in range(2): llm_query('x')\ntime.sleep(0.02)\n'awake'")
    with seat.loop.borrowed() as scheduler:
        assert scheduler is not None
        assert scheduler.answer(response)
    done = seat.done()
    assert done.result is not None
    assert done.result.result == "'awake'"


def test_commands_given_while_the_seats_are_lent_are_performed_afterwards(
    open_seat: Callable[..., Seat],
) -> None:
    first, second = open_seat(), open_seat()
    response = asking(first)
    with first.loop.borrowed() as scheduler:
        assert scheduler is not None
        second.start("1 + 1")
        assert scheduler.answer(response)
        first.requested()
        assert second.reports.empty()
    done = second.done()
    assert done.result is not None
    assert done.result.result == "2"


def test_a_borrower_that_never_tires_starves_nobody(open_seat: Callable[..., Seat]) -> None:
    computes, asks = open_seat(), open_seat()
    response = asking(asks, "while True: llm_query('x')")
    computes.start("sum(range(3_000_000))", **MANY)
    while computes.reports.empty():
        with asks.loop.borrowed() as scheduler:
            if scheduler is None or not scheduler.answer(response):
                asks.loop.submit(response)
        response = AnswerRequest(asks.number, echo(asks.requested()))
    done = computes.done()
    assert done.result is not None
    assert done.result.result == str(sum(range(3_000_000)))


def test_a_loop_that_was_stopped_lends_nothing() -> None:
    with worker_loop() as open_one:
        loop = open_one().loop
    with loop.borrowed() as scheduler:
        assert scheduler is None


# -- an event loop borrows them ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_runs_guests_that_ask_and_ask(backend: str, threads: list[str]) -> None:
    anyio.run(run, ASKING, backend=backend)
    here = threading.current_thread().name
    assert threads.count(here) > 150, f"{threads.count(here)} of {len(threads)}"


def test_only_the_thread_runs_guests_where_a_signal_could_strike_one(threads: list[str]) -> None:
    """Python's own handler raises KeyboardInterrupt wherever the main thread is: in a callback, too."""

    async def with_pythons_own_handler() -> None:
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            await run(ASKING)
        finally:
            signal.signal(signal.SIGINT, previous)

    anyio.run(with_pythons_own_handler)
    assert set(threads) == {"rlm-wasm-worker"}


class Undisturbed(Disturbance):
    def possible(self) -> bool:
        return False


class Recorder:
    """An event loop, a mailbox and a worker loop that is free to lend, but whose thread has yet to wake."""

    def __init__(self) -> None:
        self.performed: list[Command] = []
        self.waiting: list[Command] = []
        self.callbacks: list[Callable[[], None]] = []
        token = cast("EventLoopToken", SimpleNamespace(native_token=self))
        clock = itertools.repeat(0).__next__  # no time passes
        self.connection = InlineConnection(
            cast("WorkerLoop", self), LoopMailbox(token, clock), clock, Undisturbed()
        )

    call_soon = call_soon_threadsafe = lambda self, callback: self.callbacks.append(callback)
    submit = property(lambda self: self.waiting.append)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Recorder]:
        yield self

    def answer(self, command: AnswerRequest) -> bool:
        self.performed.append(command)
        return True

    def settle(self) -> list[Command]:
        """Let the event loop run, then the thread; return all commands in the order they were performed."""
        while self.callbacks:
            self.callbacks.pop(0)()
        return self.performed + self.waiting


ONE = SessionId(1)
RESPONSES = [AnswerRequest(ONE, b"first"), AnswerRequest(ONE, b"second")]


def test_a_response_waits_for_the_interrupt_before_it() -> None:
    """`interrupt` answers the question that the guest waits with: it goes on interrupted or not at all."""
    made = Recorder()
    given = [InterruptOperation(ONE), *RESPONSES]
    for command in given[:2]:
        made.connection.submit(command)
    assert made.settle() == given[:2]
    made.connection.submit(given[2])
    made.settle()
    assert made.performed == given[2:], "the interrupt is over"


@pytest.mark.parametrize("after", [InterruptOperation(ONE), Stop(ONE, CellCancelled("enough")), Close(ONE)])
def test_no_command_overtakes_a_response(after: Command) -> None:
    made = Recorder()
    made.connection.submit(RESPONSES[0])
    made.connection.submit(after)
    assert made.waiting == [RESPONSES[0], after], "given to the thread, which keeps their order"
    made.settle()
    assert not made.performed


def test_responses_are_given_in_order_and_a_round_ends() -> None:
    """Many answers at once: each callback gives some, and the event loop has its turn in between."""
    made = Recorder()
    responses = [AnswerRequest(SessionId(number), b"x") for number in range(5_000)]
    for response in responses:
        made.connection.submit(response)
    assert len(made.callbacks) == 1
    assert made.settle() == responses


def test_an_event_loop_has_time_for_others_while_guests_ask() -> None:
    """Guests that ask for ever, all of them run by the event loop, and a task that wants a hundred turns."""

    async def main() -> None:
        async with InlineWorker() as worker, anyio.create_task_group() as tasks:
            for _ in range(4):
                session = await worker.session(session_limits(), boundary_limits())
                tasks.start_soon(session.run, Cell("while True: llm_query('x')", cell_limits(**MANY)), Echo())
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    anyio.run(main)
