"""Many sessions in one thread, a fair slice for each: the part of a worker that is the same in every process.

A session that waits for the host, or sleeps, costs nothing until it can go on. Not thread-safe: who owns
it gives it commands and turns, on one thread.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rlm_wasm.errors import GuestError, RlmWasmError, UsageError
from rlm_wasm.ids import SessionId
from rlm_wasm.protocol.commands import (
    AnswerInput,
    AnswerRequest,
    Close,
    Command,
    Done,
    FuelNeeded,
    InputWanted,
    InterruptOperation,
    Load,
    Open,
    Rebase,
    Refuel,
    Report,
    Requested,
    StartCell,
    Stop,
    TakeSnapshot,
    Wrote,
)
from rlm_wasm.protocol.input_reads import InputPart
from rlm_wasm.results import CellResult
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.vm import operations, steps
from rlm_wasm.vm.checkpoints import Checkpoints
from rlm_wasm.vm.instance import Instance
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.operations import Ended, SessionOperation
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.warm_pool import PREPARED_MAX, WarmPool

# A session that the host answers goes on where it was, ahead of the others, until it has run for as
# long as a slice takes: its memory is still in the processor's caches. Then it is the others' turn.
TURN_NS: Final = 4_000_000
# A guest that ran no longer than this before it asked will not run for long once it is answered, as a rule:
# who has the answer may run that turn at once, in the middle of other things.
BRIEF_NS: Final = 500_000
# Every time that was wrong, twice as many brief turns in a row come first, up to so many.
BRIEF_WANTED_MAX: Final = 1_024


@dataclass(slots=True)
class _Driven:
    """One session and the operation it is busy with."""

    session: Session
    sink: Callable[[Report], None]
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    operation: SessionOperation | None = None
    response: bytes | InputPart | None = None
    waits_for_host: bool = False
    # Whether what it waits for is fuel, and not the response to a request.
    wants_fuel: bool = False
    stopped: GuestError | None = None
    # An interrupt may come before the operation's first step, when its session knows of no cell yet.
    interrupted: bool = False
    queued: bool = False
    # What it has run since its turn began. A turn ends with a slice used up, or with as much time.
    turn_ns: int = 0
    # What it has run since its operation began or the host answered, and whether that was brief so far.
    stretch_ns: int = 0
    brief: bool = False
    # Brief ones in a row until it asked last, and how many are wanted of it.
    briefs: int = 0
    briefs_wanted: int = 1


class SessionScheduler:
    """The sessions of one worker, each with the operation it is busy with.

    `guest()` gives what they are sessions of; it may raise what there is to say about that. At most
    `prepared_max` sessions are prepared ahead of need, where the owner has time for it. `clock` gives
    nanoseconds.
    """

    def __init__(
        self, guest: Callable[[], LoadedGuest], *, prepared_max: int = PREPARED_MAX, clock: Callable[[], int]
    ) -> None:
        self._guest: Final = guest
        self._clock: Final = clock
        self._prepared_max: Final = prepared_max
        self._warm_pool: WarmPool | None = None
        self._scheduler: dict[SessionId, _Driven] = {}
        self._runnable: deque[SessionId] = deque()
        # Whether the guest whose turn it is may go on for long. Any thread may read it.
        self.engaged = False
        self._sleepers: list[tuple[int, SessionId]] = []

    def __len__(self) -> int:
        return len(self._scheduler)

    def idle_seconds(self) -> float | None:
        """How long nothing can go on without a command: 0 if something can now, None for ever."""
        if self._runnable:
            return 0.0
        if self._sleepers:
            return max(0, self._sleepers[0][0] - self._clock()) / 1e9
        return None

    def turn(self) -> None:
        """Wake who slept long enough, and give one session its slice."""
        self._wake_sleepers()
        if self._runnable:
            self._advance(self._runnable.popleft())
            self.engaged = False

    def answer(self, command: AnswerRequest) -> bool:
        """Perform a response and the turn that it begins, if that is likely to be brief; else do nothing.

        Return whether it was done. It is not where other sessions wait and it has had its turn.
        """
        driven = self._scheduler.get(command.session)
        if (
            driven is None
            or not driven.waits_for_host
            or driven.wants_fuel
            or driven.briefs < driven.briefs_wanted
        ):
            return False
        if self._runnable and driven.turn_ns >= TURN_NS:
            return False
        self.perform(command)
        self._advance(self._runnable.popleft())
        if driven.stretch_ns > BRIEF_NS:
            driven.briefs_wanted = min(2 * driven.briefs_wanted, BRIEF_WANTED_MAX)
        return True

    @property
    def wants_preparing(self) -> bool:
        """Whether `prepare` has something to do."""
        return self._warm_pool is not None and self._warm_pool.wants

    def prepare(self) -> None:
        """Do a small step, a fraction of a millisecond, towards the next prepared session."""
        if self._warm_pool is not None:
            self._warm_pool.work()

    def close_all(self) -> None:
        """Close every session; each operation in progress reports its end."""
        for session in list(self._scheduler):
            self._close(session)
        if self._warm_pool is not None:
            self._warm_pool.close()

    def perform(self, command: Command) -> None:
        """Begin what a command says, or do it. Whatever goes wrong is reported to the session's sink."""
        if isinstance(command, Open):
            self._open(command)
            return
        driven = self._scheduler.get(command.session)
        if driven is None:
            if isinstance(command, Close):
                self._tell_closed(command)
            return  # closed meanwhile; its sink has been told
        match command:
            case Load(name=name, value=value, held=held):
                self._begin(command.session, driven, operations.load(driven.session, name, value, held))
            case StartCell(cell=cell, checkpoint_bytes_max=bytes_max):
                self._begin(
                    command.session,
                    driven,
                    operations.run_cell(driven.session, cell, bytes_max, driven.checkpoints),
                )
            case Rebase():
                self._begin(command.session, driven, operations.rebase(driven.session, driven.checkpoints))
            case TakeSnapshot():
                self._begin(command.session, driven, operations.take_snapshot(driven.session))
            case AnswerRequest(response=response) | AnswerInput(part=response):
                if driven.waits_for_host and not driven.wants_fuel:
                    driven.waits_for_host = False
                    driven.response = response
                    driven.stretch_ns = 0
                    if driven.turn_ns < TURN_NS and not driven.queued:
                        driven.queued = True
                        self._runnable.appendleft(command.session)
                    else:
                        self._queue(command.session, driven)
            case Refuel(fuel=fuel):
                if driven.wants_fuel:
                    driven.waits_for_host = driven.wants_fuel = False
                    driven.session.refuel(fuel)
                    self._queue(command.session, driven)
            case InterruptOperation():
                driven.session.interrupt()
                driven.interrupted = True
            case Stop(error=error):
                if driven.operation is not None:
                    driven.stopped = error
                    driven.waits_for_host = driven.wants_fuel = False
                    self._queue(command.session, driven)
            case Close():
                self._close(command.session)
                self._tell_closed(command)

    def _open(self, command: Open) -> None:
        try:
            loaded = self._guest()
            if command.start is not None and not isinstance(command.start, MemorySnapshot):
                raise UsageError("the image is not of this process; save it and load it here")
            session = Session(
                loaded.program,
                loaded.facts,
                command.limits,
                command.boundary,
                command.entropy,
                start=command.start,
                prepared=self._take_prepared(loaded) if command.start is None else None,
            )
        except RlmWasmError as error:
            self._refuse(command, error)
        except Exception as error:  # noqa: BLE001 - the thread serves others; the caller gets it wrap_os_error
            self._refuse(command, wrap_os_error(error, "a session failed"))
        else:
            driven = self._scheduler[command.session] = _Driven(session, command.sink)
            self._tell(command.session, driven, Done())

    def _take_prepared(self, loaded: LoadedGuest) -> Instance | None:
        if self._warm_pool is None:
            self._warm_pool = WarmPool(loaded.program, loaded.facts, size_max=self._prepared_max)
        return self._warm_pool.take()

    @staticmethod
    def _refuse(command: Open, error: RlmWasmError) -> None:
        # A sink that fails has nobody left to hear of it, and no session to free.
        with contextlib.suppress(Exception):
            command.sink(Done(error=error))

    def _begin(self, session: SessionId, driven: _Driven, operation: SessionOperation) -> None:
        if driven.operation is not None:
            self._tell(session, driven, Done(error=UsageError("the session is busy")))
            return
        driven.operation = operation
        driven.response = None
        driven.stretch_ns = 0
        driven.brief = False  # a new operation: nothing is known of it
        driven.stopped = None
        driven.interrupted = False
        self._queue(session, driven)

    def _queue(self, session: SessionId, driven: _Driven) -> None:
        """Put a session at the end of the line; its next turn is a new one."""
        driven.turn_ns = 0
        if not driven.queued:
            driven.queued = True
            self._runnable.append(session)

    def _wake_sleepers(self) -> None:
        now = self._clock()
        while self._sleepers and self._sleepers[0][0] <= now:
            _, session = heapq.heappop(self._sleepers)
            driven = self._scheduler.get(session)
            if driven is not None and driven.operation is not None and not driven.waits_for_host:
                self._queue(session, driven)

    def _advance(self, session: SessionId) -> None:
        driven = self._scheduler.get(session)
        if driven is None:
            return
        driven.queued = False
        operation, response, stopped = driven.operation, driven.response, driven.stopped
        if operation is None:
            return
        driven.response = driven.stopped = None
        self.engaged = not driven.brief
        began_ns = self._clock()
        try:
            step = operation.throw(stopped) if stopped is not None else operation.send(response)
        except StopIteration as ended:
            driven.operation = None
            value: Ended = ended.value
            done = Done(
                result=value if isinstance(value, CellResult) else None,
                snapshot=value if isinstance(value, MemorySnapshot) else None,
            )
            self._tell(session, driven, done)
        except RlmWasmError as error:
            driven.operation = None
            self._tell(session, driven, Done(error=error))
        except Exception as error:  # noqa: BLE001 - the thread serves others; the caller gets it wrap_os_error
            driven.operation = None
            driven.session.close()
            self._tell(session, driven, Done(error=wrap_os_error(error, "a session failed")))
        else:
            took_ns = self._clock() - began_ns
            driven.turn_ns += took_ns
            driven.stretch_ns += took_ns
            driven.brief = driven.stretch_ns <= BRIEF_NS
            if driven.interrupted:
                driven.interrupted = False
                driven.session.interrupt()
            match step:
                case Requested():
                    driven.waits_for_host = True
                    driven.briefs = driven.briefs + 1 if driven.brief else 0
                    self._tell(session, driven, step)
                case InputWanted():
                    driven.waits_for_host = True
                    self._tell(session, driven, step)
                case steps.Sleep(until_ns=until_ns):
                    heapq.heappush(self._sleepers, (until_ns, session))
                case FuelNeeded():
                    driven.waits_for_host = driven.wants_fuel = True
                    self._tell(session, driven, step)
                case Wrote():
                    # First: a sink that fails closes the session.
                    self._queue(session, driven)
                    self._tell(session, driven, step)
                case _:
                    self._queue(session, driven)

    def _tell(self, session: SessionId, driven: _Driven, report: Report) -> None:
        try:
            driven.sink(report)
        except Exception:  # noqa: BLE001 - an event loop that is gone: nobody waits for this session
            if session in self._scheduler:
                self._close(session)

    @staticmethod
    def _tell_closed(command: Close) -> None:
        # An event loop that is gone: nobody waits for it.
        with contextlib.suppress(Exception):
            command.closed()

    def _close(self, session: SessionId) -> None:
        driven = self._scheduler.pop(session)
        operation, driven.operation = driven.operation, None
        if operation is not None:
            operation.close()
            self._tell(session, driven, Done(error=UsageError("the session was closed")))
        driven.session.close()
        driven.checkpoints.forget()  # an error that somebody keeps knows of them
