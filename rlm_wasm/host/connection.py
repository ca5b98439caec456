"""The host's end of one worker process: commands out, reports in, and its end, once.

Everything happens on the event loop's thread. Whatever the worker sends is checked against the
host's own books (`protocol`); what was not due ends the worker, and with it its sessions, each with
one WorkerLost. Nothing it sends can raise anything here.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Final

import anyio

from rlm_wasm.errors import (
    ArtifactError,
    BoundaryViolation,
    HostExhausted,
    InternalError,
    RlmWasmError,
    UsageError,
    WorkerLost,
)
from rlm_wasm.host.cell_accounting import CellCharge
from rlm_wasm.host.deadlines import Deadlines, Owed
from rlm_wasm.host.endings import Operation, error_of
from rlm_wasm.host.input_window import LentWindow
from rlm_wasm.host.lent_files import LentFiles
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.host.readable import while_readable
from rlm_wasm.host.session_ledger import SessionLedger, SessionPhase, asked_of
from rlm_wasm.ids import SessionId
from rlm_wasm.protocol import commands as c
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.frames import Channel, Frame, FrameError, PeerGone, close_files
from rlm_wasm.protocol.input_reads import FAILED, InputAsked
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot, check_file, next_snapshot_number
from rlm_wasm.protocol.text_layout import LaidOut
from rlm_wasm.system.memfd import MemoryFile

Sink = Callable[[c.Report], None]
_WithFile = m.OpenSession | m.LoadValue | m.SnapshotSession
_WITH_FILE: Final = (m.OpenSession, m.LoadValue, m.SnapshotSession)
# The number in the books of debts that stands for the socket: sessions' begin with 1.
_SOCKET: Final = 0

# Commands that begin an operation, which ends with one report.
_BEGINNING: Final = (c.Open, c.Load, c.StartCell, c.Rebase, c.TakeSnapshot)


class Connection:
    """One worker process. `ended(connection)` is called once, when it is over, from the event loop.

    `closed(session)` is called when a session's place is free: the worker has said so. In a worker that
    serves this session `alone` it is not asked: `closed` is to end the process.
    """

    def __init__(
        self,
        child: ProcessHandle,
        *,
        tenant: str,
        report_bytes_max: int,
        unsent_bytes_max: int,
        hang_ms_max: int,
        ended: Callable[[Connection], None],
        closed: Callable[[Connection, int], None],
        alone: bool = False,
    ) -> None:
        self.child: Final = child
        self.tenant: Final = tenant
        self._channel = Channel(
            child.connection, frame_bytes_max=report_bytes_max, unsent_bytes_max=unsent_bytes_max
        )
        self._protocol = SessionLedger()
        self._sinks: dict[int, Sink] = {}
        self._running: dict[int, CellCharge] = {}
        # What the worker owes. Not read off the books of the protocol: a report that is refused may have
        # moved those, and its session would wait for ever.
        self._deadlines = Deadlines(hang_ms_max)
        self._lent = LentFiles()
        self._unread_until = 0
        self._late_ns = 0
        self._ended = ended
        self._closed = closed
        self._alone: Final = alone
        # Sessions that the worker was told to close and has not: whom to tell.
        self._closing: dict[int, Callable[[], None]] = {}
        self._scope = anyio.CancelScope()
        self._wants_writing = anyio.Event()
        # What is sent when the worker has read enough of what was sent before, in order.
        self._held: deque[tuple[m.ToWorker, bytes, MemoryFile | None]] = deque()
        self._pings = 0
        self._pinged_ns = 0
        self.heard_ns = monotonic_ns()
        self.lost: WorkerLost | None = None
        self.served = anyio.Event()
        # Nothing waits for its socket any more, whose number may become another's.
        self.over = anyio.Event()
        # Set by the pool: the process is no more.
        self.gone = anyio.Event()

    @property
    def busy(self) -> bool:
        """Whether the worker owes a report."""
        states = (self._protocol.state(session) for session in self._protocol.sessions)
        return any(s not in (SessionPhase.IDLE, SessionPhase.WAITING, SessionPhase.DRY) for s in states)

    @property
    def copies(self) -> bool:
        """Whether the worker may be busy with copying a session's memory, between two signs of life."""
        states = {self._protocol.state(session) for session in self._protocol.sessions}
        return bool(states & {SessionPhase.BUSY, SessionPhase.STOPPING, SessionPhase.CLOSING})

    # -- what a session sends ----------------------------------------------------------------------------

    def submit(self, command: c.Command) -> None:
        """Send a command.

        Raises:
            WorkerLost: the worker is gone and the command would begin something.
        """
        if self.lost is not None:
            if isinstance(command, _BEGINNING):
                raise WorkerLost(self.lost.message)
            if isinstance(command, c.Close):
                command.closed()
            return  # the session has been told
        message, file = self._message(command)
        if message is None:
            return
        if isinstance(message, _WITH_FILE):
            try:
                file = self._with_file(message, file)
            except RlmWasmError as error:
                self._untold(message, error)
                return
        self._send(message, file)

    def _with_file(self, message: _WithFile, file: MemoryFile | None) -> MemoryFile | None:
        """Return the file that goes with a message, lent from now on. Raises HostExhausted: there is none."""
        session = message.session
        if isinstance(message, m.SnapshotSession):
            return self._lent.for_image(session, self._protocol.limits(session).memory_bytes_max)
        if isinstance(message, m.LoadValue) and file is not None:
            self._lent.input(session, file)
        return file

    def _untold(self, message: m.ToWorker, error: RlmWasmError) -> None:
        """End the operation of a message that the worker knows nothing of, as if it had said so."""
        if isinstance(message, m.LendArena):
            self.end(error.message)
            return
        if isinstance(message, m.GiveInput):
            self._lent.take_back(message.session)
            self._send(m.GiveInput(message.session, FAILED, b""))
            return
        assert isinstance(message, _WITH_FILE)
        if self._protocol.owes(message.session, message.operation):
            report = m.OperationDone(message.session, message.operation, error=m.encode_error(error))
            self._protocol.check(report)
            self._act(report)

    def _message(self, command: c.Command) -> tuple[m.ToWorker | None, MemoryFile | None]:
        """Enter a command in the books; return what to send: nothing if it has become void."""
        message: m.ToWorker
        match command:
            case c.AnswerRequest(session=session, response=response):  # the most frequent by far
                if not self._protocol.responding(session):
                    return None, None
                self._running[session].resume(monotonic_ns())
                message = m.RespondTo(session, response)
            case c.AnswerInput(session=session, part=part):
                if not self._protocol.responding(session):
                    return None, None
                self._running[session].resume(monotonic_ns())
                file = self._lent.unsent_window(session) if part.filled else None
                return m.GiveInput(session, part.status, bytes(part.data), part.filled), file
            case c.Open():
                return self._open(command)
            case c.Load(value=value):
                return self._load(command, value)
            case c.StartCell(session=session, cell=cell, checkpoint_bytes_max=bytes_max):
                operation = self._protocol.beginning(
                    session, Operation.RUN, cell=cell.limits, refuels=cell.refuels, live=cell.live
                )
                now = monotonic_ns()
                self._running[session] = charge = CellCharge(cell.limits, now)
                self._owe(session, Owed.RUNNING, now, charge=charge)
                message = m.RunCell(session, operation, cell.sendable(), bytes_max)
            case c.Refuel(session=session, fuel=fuel):
                if not self._protocol.refuelling(session, fuel):
                    return None, None
                self._running[session].refuel(fuel, monotonic_ns())
                message = m.RefuelCell(session, fuel)
            case c.Rebase(session=session):
                message = m.RebaseSession(session, self._protocol.beginning(session, Operation.REBASE))
                self._owe(session, Owed.REBASING, monotonic_ns())
            case c.TakeSnapshot(session=session):
                message = m.SnapshotSession(session, self._protocol.beginning(session, Operation.IMAGE))
                self._owe(session, Owed.IMAGING, monotonic_ns())
            case c.InterruptOperation(session=session):
                if not self._protocol.interrupting(session):
                    return None, None
                message = m.InterruptCell(session)
                self._deadlines.interrupted(session, monotonic_ns(), self._protocol.limits(session))
            case c.Stop(session=session, error=error):
                if not self._protocol.stopping(session, error):
                    return None, None
                self._owe(session, Owed.STOPPING, monotonic_ns())
                message = m.StopOperation(session, m.encode_error(error))
            case c.Close():
                return self._close(command), None
        return message, None

    def _open(self, command: c.Open) -> tuple[m.OpenSession, MemoryFile | None]:
        start = command.start
        if start is not None and not isinstance(start, WorkerSnapshot):
            raise UsageError("the image is not of a worker process; save it and load it here")
        if start is not None and start.tenant != self.tenant:
            raise UsageError("the image belongs to another tenant")
        operation = self._protocol.opening(command.session, command.limits, command.boundary)
        self._sinks[command.session] = command.sink
        self._owe(command.session, Owed.OPENING, monotonic_ns())
        if start is None:
            return m.OpenSession(command.session, operation, command.limits, command.boundary), None
        message = m.OpenSession(
            command.session,
            operation,
            command.limits,
            command.boundary,
            image=start.number,
            image_size=start.size,
            image_virtual_ns=start.virtual_ns,
            image_runs=start.runs,
        )
        return message, start.file

    def _load(self, command: c.Load, value: object) -> tuple[m.LoadValue, MemoryFile | None]:
        if not isinstance(value, LaidOut):
            raise InternalError("a value that was not laid out")
        operation = self._protocol.beginning(command.session, Operation.LOAD)
        size = value.units * value.encoding.bytes_per_unit
        self._owe(command.session, Owed.LOADING, monotonic_ns(), bytes_max=size)
        message = m.LoadValue(
            command.session,
            operation,
            command.name,
            value.is_text,
            value.units,
            value.encoding.bytes_per_unit,
            value.encoding.max_char,
            value.read(0, size) if value.file is None else None,
            value.is_json,
            command.held,
        )
        return message, value.file

    def _close(self, command: c.Close) -> m.CloseSession | None:
        session = command.session
        if not self._protocol.closing(session):
            command.closed()  # it was never made
            return None
        busy = self._deadlines.owed(session) is not None
        self._owe(session, Owed.CLOSING, monotonic_ns())
        sink = self._sinks.pop(session)
        self._running.pop(session, None)
        if busy:
            sink(c.Done(error=UsageError("the session was closed")))
        self._closing[session] = command.closed
        if self._alone:
            # Its word is not needed for what a kill does.
            self._closed(self, session)
            return None
        return m.CloseSession(session)

    def _owe(
        self,
        session: SessionId,
        owed: Owed,
        now_ns: int,
        *,
        charge: CellCharge | None = None,
        bytes_max: int = 0,
    ) -> None:
        limits = self._protocol.limits(session)
        self._deadlines.owe(session, owed, now_ns, session=limits, charge=charge, bytes_max=bytes_max)

    def _send(self, message: m.ToWorker, file: MemoryFile | None = None) -> None:
        """Send a message, or hold it back where too much waits for the worker already.

        What many sessions are answered at once is no fault of their worker, which reads as it comes to it.
        """
        frame = m.encode(message)
        if self._held or not self._channel.has_room(len(frame)):
            self._held.append((message, frame, file))
            self._wants_writing.set()
        else:
            self._give(message, frame, file)

    def _give(self, message: m.ToWorker, frame: bytes, file: MemoryFile | None) -> None:
        try:
            self._channel.send(frame, None if file is None else file.fd)
        except PeerGone as gone:
            self.end(f"its socket failed: {gone}")
        except RlmWasmError as error:
            self._untold(message, error)
        else:
            if self._channel.unsent_bytes:
                self._wants_writing.set()

    def _give_held(self) -> None:
        while self._held and self.lost is None and self._channel.has_room(len(self._held[0][1])):
            self._give(*self._held.popleft())

    # -- what the worker sends ---------------------------------------------------------------------------

    async def serve(self) -> None:
        """Read and write until the worker is over."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    if self.lost is None:
                        await while_readable(self._channel.fileno(), self.read)
        except* OSError as failed:
            # The loop cannot watch one more descriptor: this worker ends, and nothing else of the pool.
            self.end(f"the host cannot watch its socket: {failed.exceptions[0]}")
        finally:
            self.over.set()
            try:
                # Cancelled from outside: whoever waits for a session is told, or would wait for ever.
                self.end("the host closed it")
            finally:
                self._channel.close()

    async def _write(self) -> None:
        while self.lost is None:
            await self._wants_writing.wait()
            self._wants_writing = anyio.Event()
            try:
                while not self._channel.flush() or self._held:
                    self._give_held()
                    if self._channel.unsent_bytes:
                        await anyio.wait_writable(self._channel)
            except PeerGone as gone:
                self.end(f"its socket failed: {gone}")

    def read(self) -> None:
        """Take what has come. Called by `serve`, and before a worker is said to hang."""
        if self.lost is not None:
            return
        try:
            self._take_all(self._channel.receive())
        except PeerGone as gone:
            self.end(f"its process ended ({gone})")
        except (FrameError, BoundaryViolation, ArtifactError) as violation:
            self.end(f"it broke the protocol: {violation}")
        except Exception as error:  # noqa: BLE001 - whatever a report led to, it ends its worker and nothing else
            self.end(f"a report of it failed with {type(error).__name__}")

    async def catch_up(self) -> None:
        """Take what has come, for whoever waits for a first sign of life."""
        self.read()

    def _take_all(self, frames: list[Frame]) -> None:
        taken = 0
        try:
            for frame in frames:
                taken += 1
                self._take(frame)
        finally:
            # Behind one that broke the protocol. Their files would be nobody's.
            close_files(frames[taken:])

    def _take(self, frame: Frame) -> None:
        if frame.file is not None or frame.file_lost:
            close_files([frame])
            raise FrameError("a file, and none is taken from a worker")
        if self.lost is not None:
            return
        report = m.decode_report(frame.payload)
        self._protocol.check(report)
        self.heard_ns = monotonic_ns()
        self._act(report)

    def _act(self, report: m.FromWorker) -> None:
        match report:
            case m.GuestRequest(session=session, frame=request):  # the most frequent by far
                if self._protocol.state(session) is SessionPhase.WAITING:
                    self._running[session].pause(self.heard_ns)
                    self._sinks[session](c.Requested(request))
            case m.InputRequest(session=session):
                if self._protocol.state(session) is SessionPhase.WAITING:
                    asked = asked_of(report)
                    self._running[session].wait_for_input(asked.fuel, self.heard_ns)
                    self._sinks[session](c.InputWanted(asked, self._window(session, asked)))
            case m.FuelLow(session=session):
                if self._protocol.state(session) is SessionPhase.DRY:
                    self._running[session].pause(self.heard_ns)
                    self._sinks[session](c.FuelNeeded())
            case m.CellOutput(session=session, chunks=chunks):
                if self._protocol.state(session) is SessionPhase.RUNNING:
                    self._sinks[session](c.Wrote(chunks))
            case m.Ready():
                self._begin()
            case m.OperationDone(session=session):
                sink = self._sinks.get(session)
                # Before anything is forgotten: it raises if what the report holds is none of ours.
                done = self._done(report)
                running = self._running.pop(session, None)
                if running is not None:
                    done = running.ended(done, self.heard_ns)
                    if isinstance(done.error, WorkerLost):
                        done = c.Done(result=running.lost(done.error, self.heard_ns))
                state = self._protocol.state(session)
                if state is not SessionPhase.CLOSING:
                    self._deadlines.paid(session)
                if state is None:  # it was never made
                    self._sinks.pop(session, None)
                    self._closed(self, session)
                if sink is not None:
                    sink(done)
            case m.SessionClosed(session=session):
                self._deadlines.paid(session)
                self._lent.take_back(session)
                closed = self._closing.pop(session)
                self._closed(self, session)
                closed()
            case m.Pong():
                pass

    def _window(self, session: int, asked: InputAsked) -> LentWindow | None:
        """Return where a long part of an input goes; None: it is sent, for want of a descriptor."""
        if asked.wants_window:
            with contextlib.suppress(HostExhausted):
                return self._lent.window(session)
        return None

    def _done(self, report: m.OperationDone) -> c.Done:
        snapshot_file = self._given_back(report)
        if report.error is not None:
            return c.Done(error=error_of(report.error, in_cell=report.session in self._running))
        if report.result is not None:
            return c.Done(result=report.result)
        if report.image is not None:
            assert snapshot_file is not None  # lent for it
            image = report.image
            check_file(snapshot_file.fd, image.runs, image.size)
            number = next_snapshot_number()
            return c.Done(
                snapshot=WorkerSnapshot(
                    number, self.tenant, image.size, image.virtual_ns, image.runs, snapshot_file
                )
            )
        return c.Done()

    def _given_back(self, report: m.OperationDone) -> MemoryFile | None:
        """Take back what was lent for an operation that is over, but for the image that it made."""
        if report.error is None and self._protocol.kind(report.session) is Operation.IMAGE:
            return self._lent.image_made(report.session)
        self._lent.take_back(report.session)
        return None

    def _begin(self) -> None:
        """Give the worker what it needs beside commands; from then on it may be given those."""
        try:
            arena = self._lent.arena()
            self._send(m.LendArena(), arena)
        except HostExhausted as short:
            self.end(short.message)
        self.served.set()

    def memory_bytes(self) -> int:
        """The memory that the worker holds, what was lent to it included; 0 if the kernel does not say."""
        return (self.child.memory_bytes() or 0) + self._lent.bytes_held

    # -- its life ----------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask the worker to show that it lives, unless it was asked already."""
        if self.lost is None and self._protocol.ready and not self._protocol.ping_outstanding:
            self._pings += 1
            self._protocol.pinging(self._pings)
            self._pinged_ns = monotonic_ns()
            self._send(m.Ping(self._pings))

    @property
    def ping_outstanding(self) -> bool:
        """Whether a ping has not been answered."""
        return self._protocol.ping_outstanding

    def silent_ns(self, now_ns: int) -> int:
        """How long the worker has owed an answer to a ping; 0 if it owes none."""
        if not self._protocol.ping_outstanding:
            return 0
        return now_ns - max(self._pinged_ns, self.heard_ns)

    def excuse(self, late_ns: int) -> None:
        """Do not count so much of the time that is asked about next: the host stood still meanwhile."""
        self._pinged_ns = max(self._pinged_ns, self.heard_ns) + late_ns
        self._late_ns = late_ns

    def overdue(self, now_ns: int) -> str | None:
        """Return what an honest worker would have done by now, if anything. Asked at each beat."""
        unsent = self._channel.unsent_bytes
        if not unsent or self._channel.flushed_bytes >= self._unread_until:
            self._deadlines.paid(_SOCKET)
        if unsent and self._deadlines.owed(_SOCKET) is None:
            self._unread_until = self._channel.flushed_bytes + unsent
            self._deadlines.owe(_SOCKET, Owed.READING, now_ns, bytes_max=unsent)
        late_ns, self._late_ns = self._late_ns, 0
        overdue = self._deadlines.tick(now_ns, self.child.cpu_ns(), late_ns=late_ns)
        return None if overdue is None else overdue.value

    def end(self, reason: str) -> None:
        """Kill the process and tell every session. Safe to call again; the first reason counts."""
        if self.lost is not None:
            return
        self.lost = lost = WorkerLost(f"the worker process is gone: {reason}")
        self._scope.cancel()
        self._wants_writing.set()
        self.served.set()
        self._held.clear()
        sinks, self._sinks = self._sinks, {}
        closing, self._closing = self._closing, {}
        # All of it is done, the last first, whatever one of them raises: who is not told now waits for ever,
        # and may do so in a scope that nobody can cancel.
        with contextlib.ExitStack() as steps:
            for closed in reversed(closing.values()):
                steps.callback(closed)
            steps.callback(self._ended, self)
            now = monotonic_ns()
            for session, sink in reversed(sinks.items()):
                if self._deadlines.owed(session) is not None:
                    steps.callback(sink, self._lost(session, lost.message, now))
            steps.callback(self._lent.close)
            steps.callback(self.child.kill)

    def _lost(self, session: int, message: str, now_ns: int) -> c.Done:
        """Return how the operation of a session ended whose worker is gone."""
        error = WorkerLost(message)
        running = self._running.pop(session, None)
        return c.Done(error=error) if running is None else c.Done(result=running.lost(error, now_ns))
