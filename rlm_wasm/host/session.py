"""A session as its host drives it: awaitable calls, made of commands to a worker and the reports of it.

Where the guest is, in this process or in another one, is the matter of who takes the commands.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

import anyio
import anyio.lowlevel

from rlm_wasm.errors import (
    CellCancelled,
    DeadlineExceeded,
    GuestError,
    GuestException,
    GuestTrap,
    HostExhausted,
    InternalError,
    UsageError,
    WorkerLost,
)
from rlm_wasm.host.affinity import Affinity
from rlm_wasm.host.answers import Answer, Answerer, TakeOutput
from rlm_wasm.host.cell_accounting import unbegun_result
from rlm_wasm.host.cell_slots import CellSlot
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_answers import answer as input_answer
from rlm_wasm.host.input_answers import is_at_hand
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.ids import SessionId
from rlm_wasm.limits import BoundaryLimits
from rlm_wasm.protocol.cell import Cell
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
from rlm_wasm.protocol.guest_frames import encode_response, response_bytes_max
from rlm_wasm.protocol.input_reads import FAILED, INTERRUPTED, InputPart
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.protocol.pending_output import PendingOutput
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.request import Cancelled
from rlm_wasm.system.threads import in_thread

# For so long closing waits until the session's place is free. What stands in the way of a worker process is
# ended long before; nothing can end a thread of this process.
CLOSE_SECONDS_MAX: Final = 30.0
# What the host cannot end a cell by.
_NO_END_OF_THIS_CELL: Final = (GuestException, GuestTrap, WorkerLost)
# What a guest that waits for the host gets when its cell is interrupted.
_CANCELLED_RESPONSE: Final = encode_response(Cancelled("the cell was cancelled"))


class _Mailbox:
    """What the task that drives a session has to know, put there on the event loop's thread.

    A cell's output that nobody has taken is joined: a worker decides in how many reports it tells it.
    """

    def __init__(self) -> None:
        self._reports: deque[Report | PendingOutput | BaseException] = deque()
        self._arrived = anyio.Event()

    def put(self, report: Report | BaseException) -> None:
        if isinstance(report, Wrote):
            self._output().add(report.chunks)
        else:
            self._reports.append(report)
        self._arrived.set()

    def _output(self) -> PendingOutput:
        """Return what the last report in it is joined with, if that is output too."""
        if not self._reports or not isinstance(last := self._reports[-1], PendingOutput):
            self._reports.append(last := PendingOutput())
        return last

    async def get(self) -> Report | BaseException:
        while not self._reports:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        report = self._reports.popleft()
        return report.take() if isinstance(report, PendingOutput) else report


class Commands(Protocol):
    """What a session sends its commands to. What it reports comes to the sink that `Open` named."""

    def submit(self, command: Command) -> None:
        """Send a command. Raises UsageError or WorkerLost if it could begin nothing any more."""


class HostSession:
    """One guest, wherever it is, one operation at a time. Close it, or use `async with`.

    Whoever makes it begins with an `Open` whose sink is `_received`.
    """

    def __init__(
        self, commands: Commands, number: SessionId, boundary: BoundaryLimits, cell_slot: CellSlot
    ) -> None:
        self._commands = commands
        self._cell_slot = cell_slot
        self._number = number
        self._boundary = boundary
        self._home = Affinity()
        self.inputs = HeldInputs()
        self._mailbox = _Mailbox()
        self._closed = False
        # Nothing is left of the guest, and its place is free.
        self._freed = anyio.Event()
        self._busy = False
        self._answering: anyio.CancelScope | None = None
        self._answerer: Answerer | None = None
        # The number of the frame that the answerer has not replied to, or 0.
        self._unanswered = 0
        self._frames = 0
        # Whether what is unanswered is how much more fuel there is.
        self._dry = False
        self._interrupted = False
        self._on_output: TakeOutput | None = None
        self.last_result: CellResult | None = None

    async def load(self, name: str, value: str | bytes | InputFile, *, file: str | None = None) -> None:
        """Bind an input in the guest. Raises UsageError, MemoryExceeded or another GuestError.

        It is the file of this name in /inputs as well, which is read here, and so is kept; an `InputFile`
        is that in any case, and nothing of it is copied. Cancelled once it has begun, it leaves the session
        lost.
        """
        copied: str | bytes = b"" if isinstance(value, InputFile) else value
        if isinstance(value, InputFile):
            file = file or value.name
        if file is None:
            await self._load(name, copied, None)
            return
        held = self.inputs.add(name, file, value)
        try:
            await self._load(name, copied, held)
        except BaseException:
            self.inputs.drop(held.number)  # what was there before is there still
            raise
        self.inputs.keep(held.number)

    async def _load(self, name: str, value: str | bytes, held: HeldInput | None) -> None:
        await self._operate(Load(self._number, name, value, held), None)

    async def rebase(self) -> None:
        """Make the present state the session's origin: worth one copy after large inputs were loaded."""
        await self._operate(Rebase(self._number), None)

    async def snapshot(self) -> SessionSnapshot:
        """Return the state between two cells. Raises UsageError if the session is lost."""
        done = await self._operate(TakeSnapshot(self._number), None)
        if done.snapshot is None:
            raise InternalError("a snapshot ended without one")
        return done.snapshot

    async def run(
        self,
        cell: Cell,
        answer: Answer | None = None,
        *,
        checkpoint_bytes_max: int = 0,
        on_output: TakeOutput | None = None,
    ) -> CellResult:
        """StartCell a cell; `answer` turns each request frame of the guest into a response frame.

        A GuestError raised by `answer` ends the cell and is its result. Where a cell ends the
        guest, the session goes back to the state before it if that took no more than
        `checkpoint_bytes_max`; else it is lost. Cancelling this call ends the cell. `on_output` takes what a
        live cell writes, in order; what it raises interrupts the cell, and is raised here.
        """
        if not self._busy:  # else it is refused, and these are the other cell's
            self.last_result = None
            self._on_output = on_output
        done = await self._operate(StartCell(self._number, cell, checkpoint_bytes_max), answer)
        if done.result is None:
            raise InternalError("a cell ended without a result")
        return done.result

    def interrupt(self) -> None:
        """Ask the cell that runs to end by an exception in the guest. Does nothing between cells."""
        if not self._closed:
            self._home.check("the session")
            self._interrupt()
            if self._answering is not None:
                self._answering.cancel()
            if self._unanswered:
                # The guest has to run again to be interrupted.
                if self._dry:
                    self._refuel(self._unanswered, 0)
                else:
                    self._reply(self._unanswered, _CANCELLED_RESPONSE)

    async def aclose(self) -> None:
        """Free the guest, and wait until its place is free, at most CLOSE_SECONDS_MAX. Safe to call again."""
        if self._home.inherited:
            return  # nothing of it is here
        self.abandon()
        if not self._freed.is_set():
            self._home.check("the session")
        with anyio.move_on_after(CLOSE_SECONDS_MAX):
            await self._freed.wait()

    def abandon(self) -> None:
        """Free the guest without waiting for anything. Safe to call again, and after the worker closed."""
        if not self._closed and not self._home.inherited:
            self._home.check("the session")
            self._closed = True
            self.inputs.clear()
            try:
                self._commands.submit(Close(self._number, self._notice_of_end()))
            except UsageError:  # the worker is closed, and so are its guests
                self._freed.set()

    def _notice_of_end(self) -> Callable[[], None]:
        """Return what the worker is to call when it has freed the guest."""
        return self._freed.set

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home.inherited:
            return  # nor is there a task, for a scope
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def _operate(self, command: Command, answer: Answer | None) -> Done:
        if self._closed or self._busy:
            raise UsageError("the session is closed" if self._closed else "the session is busy")
        self._home.check("the session")
        if isinstance(command, Load):  # one that has begun cannot be undone
            await anyio.lowlevel.checkpoint_if_cancelled()
        self._busy = True
        self._interrupted = False
        try:
            await self._begin(command)
        except BaseException:
            self._busy = False
            self._cell_slot.end()
            raise
        self._answerer = answer if isinstance(answer, Answerer) else None
        failed: Exception | None = None
        try:
            while True:
                report = await self._mailbox.get()
                if isinstance(report, Done):
                    break
                if isinstance(report, Wrote):
                    failed = failed or await self._hand_on(report)
                    continue
                try:
                    if isinstance(report, BaseException):
                        raise report
                    reply = await self._answer(report, answer)
                except Exception as error:  # noqa: BLE001 - of whoever answers: raised once the cell has ended
                    # As after an interrupt: the guest can unwind, and the session lives on.
                    failed = failed or error
                    self._interrupt()
                    self._unanswered = 0
                    reply = (
                        Refuel(self._number, 0)
                        if self._dry
                        else AnswerRequest(self._number, _CANCELLED_RESPONSE)
                    )
                if not isinstance(reply, Stop) and not self._interrupted:
                    await self._cell_slot.begun()
                self._commands.submit(reply)
        except BaseException:
            self._answerer = None
            self._unanswered = 0
            if isinstance(command, Open):
                raise  # nobody has it yet, so nobody has to wait: who makes it abandons it
            # Cancelled, or a bug above: the guest must be still before the caller goes on. What a worker owes
            # bounds the wait, and its connection ends it, which tells everybody whatever else fails.
            with contextlib.suppress(UsageError):  # the worker closes, which ends the operation too
                self._commands.submit(Stop(self._number, CellCancelled("the cell was cancelled")))
            self.last_result = (await self._until_done()).result
            raise
        finally:
            self._busy = False
            self._answerer = None
            self._cell_slot.end()
        self.last_result = report.result
        if failed is not None:
            raise failed
        if report.error is not None:
            raise report.error
        return report

    async def _until_done(self) -> Done:
        """Wait for the end of what was stopped. Whoever cancels again waits as long."""
        while True:
            with contextlib.suppress(anyio.get_cancelled_exc_class()), anyio.CancelScope(shield=True):
                while not isinstance(done := await self._mailbox.get(), Done):
                    pass
                return done

    async def _hand_on(self, output: Wrote) -> Exception | None:
        """Give what a live cell wrote to who wants it; return what that raised, which interrupts the cell.

        Between two calls everybody else on the event loop has a turn: how many there are the guest decides.
        """
        for stream, data in output.chunks:
            await anyio.lowlevel.checkpoint()
            if (error := self._tell(stream, data)) is not None:
                return error
        return None

    def _tell(self, stream: int, data: bytes) -> Exception | None:
        try:
            if self._on_output is not None:
                self._on_output(stream, data)
        except Exception as error:  # noqa: BLE001 - of the caller's: raised once the cell has ended
            self._on_output = None
            self._interrupt()
            return error
        return None

    def _interrupt(self) -> None:
        self._commands.submit(InterruptOperation(self._number))
        self._interrupted = True
        self._cell_slot.hurry()

    async def _begin(self, command: Command) -> None:
        """Send a command; a cell's once its tenant may compute."""
        if not isinstance(command, StartCell):
            self._commands.submit(command)
            return
        if not self._cell_slot.begin():
            try:
                await self._cell_slot.begun()
                if self._closed:
                    raise UsageError("the session was closed")
            except BaseException:
                self.last_result = unbegun_result()  # which has used nothing
                raise
        self._commands.submit(command)
        if self._interrupted:  # while it waited
            self._commands.submit(InterruptOperation(self._number))

    def _received(self, report: Report) -> None:
        """Take a report of the worker's: an answerer gets a request at once, the waiting task all else."""
        if isinstance(report, Wrote):
            self._mailbox.put(report)  # and the guest goes on
            return
        self._cell_slot.end()  # the guest waits for the host, or for nothing
        answerer = self._answerer
        if answerer is None or self._interrupted or not isinstance(report, Requested | FuelNeeded):
            self._mailbox.put(report)
            return
        self._frames += 1
        self._unanswered = self._frames
        self._dry = isinstance(report, FuelNeeded)
        try:
            if isinstance(report, FuelNeeded):
                answerer.refuel(functools.partial(self._refuel, self._frames))
            else:
                answerer.ask(report.frame, functools.partial(self._reply, self._frames))
        except BaseException as error:  # noqa: BLE001 - raised again by the task that drives the session
            # Any: what leaves a callback is told to nobody, and ends trio.
            self._mailbox.put(error)

    def _reply(self, number: int, response: bytes | GuestError) -> None:
        """Pass a reply on, if it is the one that the guest waits for."""
        if number != self._unanswered:
            return  # interrupted or cancelled meanwhile
        self._unanswered = 0
        command: Command
        if isinstance(response, GuestError):
            command = Stop(self._number, response)
        else:
            try:
                command = AnswerRequest(self._number, self._checked(response))
            except UsageError as error:
                self._mailbox.put(error)
                return
        self._go_on(command)

    def _checked(self, response: object) -> bytes:
        """Return what whoever answers gave, if it can go to the guest. Raises UsageError."""
        if type(response) is not bytes:  # a subclass may lie about its length
            raise UsageError(f"a {type(response).__name__} is no response; give bytes")
        most = response_bytes_max(self._boundary)
        if len(response) > most:
            key = "boundary.response_bytes_max"
            raise UsageError(f"a response of {len(response)} bytes; {key} leaves room for {most}")
        return response

    def _refuel(self, number: int, fuel: int) -> None:
        """Pass on how much more fuel there is, if that is what the cell waits for."""
        if number == self._unanswered:
            self._unanswered = 0
            self._go_on(Refuel(self._number, fuel))

    def _go_on(self, command: Command) -> None:
        """Tell the guest what it waits for, once its tenant may compute: at once if it is interrupted."""

        def submit() -> None:
            with contextlib.suppress(UsageError):  # the worker is closed, and so is the guest
                self._commands.submit(command)

        if isinstance(command, Stop) or self._interrupted or self._cell_slot.begin(submit):
            submit()

    async def _read(self, wanted: InputWanted) -> InputPart:
        """Answer what the guest asks of an input: on a thread where that may take longer than a copy."""
        asked, into = wanted.asked, wanted.into
        if self._interrupted:
            return InputPart(status=INTERRUPTED)  # the guest has to run again for that
        if is_at_hand(self.inputs, asked):
            return input_answer(self.inputs, asked, into)
        part = InputPart(status=FAILED)
        with (
            contextlib.suppress(HostExhausted),  # no thread: the guest may ask again
            anyio.CancelScope() as self._answering,
            anyio.move_on_after(self._boundary.host_wait_ms_max / 1000),
        ):
            part = await in_thread(input_answer, self.inputs, asked, into, abandon_on_cancel=True)
        if self._interrupted:
            part = InputPart(status=INTERRUPTED)
        if part.status and into is not None:
            into.abandon()  # the thread may be at it still
        return part

    async def _answer(self, request: Requested | InputWanted | FuelNeeded, answer: Answer | None) -> Command:
        """Return what to tell the guest: a response, or that its cell is over."""
        if isinstance(request, InputWanted):
            return AnswerInput(self._number, await self._read(request))
        if isinstance(request, FuelNeeded):
            # Interrupted: the guest has to run again for that. Or nobody is there who has any.
            return Refuel(self._number, 0)
        if answer is None:
            return Stop(self._number, CellCancelled("the guest asked the host where nobody answers"))
        if self._interrupted:
            return AnswerRequest(self._number, _CANCELLED_RESPONSE)
        wait_ms = self._boundary.host_wait_ms_max
        try:
            # No `fail_after`: whoever answers may have a TimeoutError of its own.
            with (
                anyio.CancelScope() as self._answering,
                anyio.move_on_after(wait_ms / 1000) as waiting,
            ):
                return AnswerRequest(self._number, self._checked(await answer(request.frame)))
            if waiting.cancelled_caught:
                late = DeadlineExceeded(
                    f"the guest waited for the host longer than {wait_ms} ms",
                    key="boundary.host_wait_ms_max",
                    limit=wait_ms,
                )
                return Stop(self._number, late)
            # Interrupted: the guest has to run again to be interrupted.
            return AnswerRequest(self._number, _CANCELLED_RESPONSE)
        except GuestError as error:
            if isinstance(error, _NO_END_OF_THIS_CELL):
                raise  # of another cell, which whoever answers ran: theirs, like any other exception
            return Stop(self._number, error)
