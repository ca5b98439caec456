"""The worker loop: one thread, many sessions, a fair slice for each.

Commands come in through a queue; what happens goes out through a callback, on this thread. A
session that waits for the host, or sleeps, costs nothing until it can go on.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from rlm_wasm.errors import GuestError, InternalError, RlmWasmError, UsageError
from rlm_wasm.ids import SessionId
from rlm_wasm.sandbox.instance import Instance
from rlm_wasm.sandbox.session import Session
from rlm_wasm.sandbox.snapshot import Snapshot
from rlm_wasm.sandbox.steps import HostRequest, Sleep
from rlm_wasm.sandbox.stock import PREPARED_MAX, Stock
from rlm_wasm.worker import operations
from rlm_wasm.worker.commands import (
    Close,
    Command,
    Done,
    Interrupt,
    Load,
    Open,
    Rebase,
    Report,
    Requested,
    Respond,
    Run,
    Stop,
    TakeSnapshot,
)
from rlm_wasm.worker.operations import Outcome, SessionOperation
from rlm_wasm.worker.program import LoadedGuest, load_guest_program
from rlm_wasm.worker.result import CellResult

STOP_SECONDS_MAX: Final = 30.0
# Nobody wants the thread for so long: then it prepares sessions, a fraction of a millisecond at a time.
IDLE_SECONDS: Final = 0.005


@dataclass(slots=True)
class _Seat:
    """One session and the operation it is busy with."""

    session: Session
    sink: Callable[[Report], None]
    operation: SessionOperation | None = None
    response: bytes | None = None
    waits_for_host: bool = False
    stopped: GuestError | None = None
    # An interrupt may come before the operation's first step, when its session knows of no cell yet.
    interrupted: bool = False
    queued: bool = False


class WorkerLoop:
    """Runs sessions on a thread of its own, never the main one: no signal handler runs there.

    While it has nothing to do it prepares sessions ahead of need, at most `prepared_max`.
    """

    def __init__(self, *, prepared_max: int = PREPARED_MAX) -> None:
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._seats: dict[SessionId, _Seat] = {}
        self._runnable: deque[SessionId] = deque()
        self._sleepers: list[tuple[int, SessionId]] = []
        self._prepared_max: Final = prepared_max
        self._stock: Stock | None = None
        self._idle = False
        self._thread = threading.Thread(target=self._main, name="rlm-wasm-worker", daemon=True)
        self._stopping = False
        # Together: whoever is not refused comes before the end in the queue, and so gets its Done.
        self._door = threading.Lock()
        self._refusing = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Hand a command to the thread; any thread may call this.

        Raises:
            UsageError: the loop is closed.
        """
        with self._door:
            if self._refusing:
                raise UsageError("the worker is closed")
            self._commands.put(command)

    def stop(self) -> None:
        """Close every session and end the thread.

        Raises:
            InternalError: the thread did not end within STOP_SECONDS_MAX.
        """
        with self._door:
            self._refusing = True
            self._commands.put(None)
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive():
            raise InternalError("the worker thread did not stop")

    @property
    def open_sessions(self) -> int:
        """How many sessions exist; exact only on the worker's thread or when it is idle."""
        return len(self._seats)

    # -- the thread ---------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._take_commands()
                self._wake_sleepers()
                if self._runnable:
                    self._advance(self._runnable.popleft())
                elif self._idle and self._stock is not None:
                    self._stock.work()
        finally:
            with self._door:
                self._refusing = True
            for session in list(self._seats):
                self._close(session)
            if self._stock is not None:
                self._stock.close()

    def _take_commands(self) -> None:
        timeout: float | None = None
        if self._runnable:
            self._idle = False
            timeout = 0.0
        elif self._sleepers:
            timeout = max(0, self._sleepers[0][0] - monotonic_ns()) / 1e9
        if self._stock is not None and self._stock.wants and timeout != 0.0:
            patience = 0.0 if self._idle else IDLE_SECONDS
            timeout = patience if timeout is None else min(patience, timeout)
        try:
            command = self._commands.get(block=timeout != 0.0, timeout=timeout or None)
        except queue.Empty:
            # Waited as long as that in vain. A sleeper that wakes makes the thread busy again.
            self._idle = not self._runnable
            return
        self._idle = False
        with contextlib.suppress(queue.Empty):
            while True:
                if command is None:
                    self._stopping = True
                    return
                self._perform(command)
                command = self._commands.get_nowait()

    def _perform(self, command: Command) -> None:
        if isinstance(command, Open):
            self._open(command)
            return
        seat = self._seats.get(command.session)
        if seat is None:
            return  # closed meanwhile; its sink has been told
        match command:
            case Load(name=name, value=value):
                self._begin(command.session, seat, operations.load(seat.session, name, value))
            case Run(cell=cell, checkpoint_bytes_max=bytes_max):
                self._begin(command.session, seat, operations.run_cell(seat.session, cell, bytes_max))
            case Rebase():
                self._begin(command.session, seat, operations.rebase(seat.session))
            case TakeSnapshot():
                self._begin(command.session, seat, operations.take_snapshot(seat.session))
            case Respond(response=response):
                if seat.waits_for_host:
                    seat.waits_for_host = False
                    seat.response = response
                    self._queue(command.session, seat)
            case Interrupt():
                seat.session.interrupt()
                seat.interrupted = True
            case Stop(error=error):
                if seat.operation is not None:
                    seat.stopped = error
                    seat.waits_for_host = False
                    self._queue(command.session, seat)
            case Close():
                self._close(command.session)

    def _open(self, command: Open) -> None:
        try:
            loaded = load_guest_program()
            session = Session(
                loaded.program,
                loaded.guest.facts,
                command.limits,
                command.boundary,
                command.entropy,
                start=command.start,
                prepared=self._take_prepared(loaded) if command.start is None else None,
            )
        except RlmWasmError as error:
            self._refuse(command, error)
        except Exception as error:  # noqa: BLE001 - the thread serves others; the caller gets it typed
            self._refuse(command, _internal(error))
        else:
            seat = self._seats[command.session] = _Seat(session, command.sink)
            self._tell(command.session, seat, Done())

    def _take_prepared(self, loaded: LoadedGuest) -> Instance | None:
        if self._stock is None:
            self._stock = Stock(loaded.program, loaded.guest.facts, size_max=self._prepared_max)
        return self._stock.take()

    @staticmethod
    def _refuse(command: Open, error: RlmWasmError) -> None:
        # A sink that fails has nobody left to hear of it, and no session to free.
        with contextlib.suppress(Exception):
            command.sink(Done(error=error))

    def _begin(self, session: SessionId, seat: _Seat, operation: SessionOperation) -> None:
        if seat.operation is not None:
            self._tell(session, seat, Done(error=UsageError("the session is busy")))
            return
        seat.operation = operation
        seat.response = None
        seat.stopped = None
        seat.interrupted = False
        self._queue(session, seat)

    def _queue(self, session: SessionId, seat: _Seat) -> None:
        if not seat.queued:
            seat.queued = True
            self._runnable.append(session)

    def _wake_sleepers(self) -> None:
        now = monotonic_ns()
        while self._sleepers and self._sleepers[0][0] <= now:
            _, session = heapq.heappop(self._sleepers)
            seat = self._seats.get(session)
            if seat is not None and seat.operation is not None and not seat.waits_for_host:
                self._queue(session, seat)

    def _advance(self, session: SessionId) -> None:
        seat = self._seats.get(session)
        if seat is None:
            return
        seat.queued = False
        operation, response, stopped = seat.operation, seat.response, seat.stopped
        if operation is None:
            return
        seat.response = seat.stopped = None
        try:
            step = operation.throw(stopped) if stopped is not None else operation.send(response)
        except StopIteration as ended:
            seat.operation = None
            outcome: Outcome = ended.value
            done = Done(
                result=outcome if isinstance(outcome, CellResult) else None,
                snapshot=outcome if isinstance(outcome, Snapshot) else None,
            )
            self._tell(session, seat, done)
        except RlmWasmError as error:
            seat.operation = None
            self._tell(session, seat, Done(error=error))
        except Exception as error:  # noqa: BLE001 - the thread serves others; the caller gets it typed
            seat.operation = None
            seat.session.close()
            self._tell(session, seat, Done(error=_internal(error)))
        else:
            if seat.interrupted:
                seat.interrupted = False
                seat.session.interrupt()
            match step:
                case HostRequest(frame=frame):
                    seat.waits_for_host = True
                    self._tell(session, seat, Requested(frame))
                case Sleep(until_ns=until_ns):
                    heapq.heappush(self._sleepers, (until_ns, session))
                case _:
                    self._queue(session, seat)

    def _tell(self, session: SessionId, seat: _Seat, report: Report) -> None:
        try:
            seat.sink(report)
        except Exception:  # noqa: BLE001 - an event loop that is gone: nobody waits for this session
            if session in self._seats:
                self._close(session)

    def _close(self, session: SessionId) -> None:
        seat = self._seats.pop(session)
        operation, seat.operation = seat.operation, None
        if operation is not None:
            operation.close()
            self._tell(session, seat, Done(error=UsageError("the session was closed")))
        seat.session.close()


def _internal(error: Exception) -> InternalError:
    internal = InternalError(f"{type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal
