"""The main function of a worker process: sessions driven on its one thread, spoken to over one socket.

It runs locked down, after a fork of a zygote that has everything in memory that it will need: no
file is opened here and no module loaded. Beside what the sandbox itself uses it makes these system
calls only: poll, recvmsg, sendto, close, fcntl, pread64, fstat, and for what it lays out in memory files
that its host lends it ftruncate, fallocate and pwrite64. It makes none of its own: its host counts them.

The host is trusted: a command that makes no sense ends the process.
"""

from __future__ import annotations

import os
import select
import socket
from time import monotonic_ns
from typing import Final

from rlm_wasm.errors import HostExhausted, RlmWasmError
from rlm_wasm.ids import SessionId
from rlm_wasm.jail.adaptive_poll import AdaptivePoll
from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.jail.translation import KeptSnapshots, command_of, load_command, open_command, report_of
from rlm_wasm.protocol import commands as c
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.frames import Channel, PeerGone
from rlm_wasm.protocol.input_reads import FAILED, InputPart
from rlm_wasm.system.memfd import MemoryFile, use_arena
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.vm.input_window_unsafe import mapped_window
from rlm_wasm.vm.session_scheduler import SessionScheduler

# A value larger than this comes in a file, so frames hold a cell's source or a response at most.
COMMAND_BYTES_MAX: Final = 256 << 20
# A host that does not read is not worked for: beyond this nothing runs until it has read.
UNSENT_BYTES_HIGH: Final = 8 << 20
_UNSENT_BYTES_MAX: Final = 1 << 30
# A worker that has had so many sessions is one that they share: it prepares for the next ones while
# nobody has wanted it for so long.
SHARED_FROM_SESSIONS: Final = 2
IDLE_MS: Final = 5
_WITH_FILE: Final = (m.OpenSession, m.LoadValue, m.SnapshotSession)
# Asked for in the zygote: a locked worker may not.
_PROCESSORS: Final = len(os.sched_getaffinity(0))


class Server:
    """One worker process's sessions and its end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._channel = Channel(
            connection, frame_bytes_max=COMMAND_BYTES_MAX, unsent_bytes_max=_UNSENT_BYTES_MAX
        )
        self._scheduler = SessionScheduler(adopted_guest, clock=monotonic_ns)
        self._images = KeptSnapshots()
        self._operations: dict[int, int] = {}
        # Lent for the images that sessions hand out.
        self._blanks: dict[int, MemoryFile] = {}
        # What cells read inputs through.
        self._windows: dict[int, memoryview] = {}
        self._opened = 0
        self._idle = False
        self._poll = select.poll()
        self._events = 0
        # Whether the last thing told was a request, and how long to stay awake for its answer.
        self._asked = False
        self._adaptive_poll = AdaptivePoll()
        self._closed = False
        # What kept a report from the host, which waits for it.
        self._untold: Exception | None = None

    def run(self) -> None:
        """Serve until the host closes the socket."""
        self._channel.send(m.encode(m.Ready()))
        try:
            while True:
                self.step()
        except PeerGone:
            pass
        finally:
            self.close()

    def step(self) -> None:
        """Wait until there is something to do, and do one thing.

        Raises PeerGone, or what kept a report from the host: this process has to end then, which is a
        report as well. Going on, it would answer pings while the host waits for ever.
        """
        self._step()
        if self._untold is not None:
            raise self._untold

    def _step(self) -> None:
        if self._wait():
            self._idle = False
            for frame in self._channel.receive():
                file = None if frame.file is None else MemoryFile(frame.file)
                command = m.decode_command(frame.payload)
                if isinstance(command, m.GiveInput):
                    self._scheduler.perform(self._input_of(command, file, lost=frame.file_lost))
                elif frame.file_lost and isinstance(command, _WITH_FILE):
                    self._operations[command.session] = command.operation
                    error = HostExhausted("the worker has no descriptor left for a file")
                    self._tell(command.session, c.Done(error=error))
                else:
                    self._take(command, file)
        if self._channel.unsent_bytes >= UNSENT_BYTES_HIGH:
            return
        if self._idle and self._scheduler.idle_seconds() != 0.0:
            self._scheduler.prepare()
        else:
            self._scheduler.turn()

    def close(self) -> None:
        """Close the socket and end every session. Nothing is told: the host sees a worker that went."""
        self._closed = True
        self._channel.close()
        self._scheduler.close_all()

    def _wait(self) -> bool:
        """Wait until a session can go on or the host has something to say; return whether it has.

        Or until there has been nothing to do for a while, in a worker that may use the time.
        """
        events = select.POLLIN
        seconds = self._scheduler.idle_seconds()
        idle = None
        if seconds != 0.0 and self._opened >= SHARED_FROM_SESSIONS and self._scheduler.wants_preparing:
            idle = 0 if self._idle else IDLE_MS
        if not self._channel.flush():
            events |= select.POLLOUT
            if self._channel.unsent_bytes >= UNSENT_BYTES_HIGH:
                seconds = None
        if events != self._events:
            self._events = events
            self._poll.register(self._channel.fileno(), events)
        # Rounded up: waking a fraction of a millisecond early would spin until the time has come.
        timeout = None if seconds is None else -int(-seconds * 1000 // 1)
        if idle is not None:
            timeout = idle if timeout is None else min(idle, timeout)
        found = self._wait_for_answer(timeout) if self._asked and timeout != 0 else self._poll.poll(timeout)
        self._idle = idle is not None and not found
        return any(event & ~select.POLLOUT for _, event in found)

    def _wait_for_answer(self, timeout: int | None) -> list[tuple[int, int]]:
        """Wait as `poll` does for what the host answers: awake at first, where answers come quickly."""
        self._asked = False
        poll = self._poll.poll
        began_ns = now_ns = monotonic_ns()
        until_ns = began_ns + self._adaptive_poll.awake_ns(_PROCESSORS)
        found: list[tuple[int, int]] = []
        while not found and now_ns < until_ns:
            found = poll(0)
            now_ns = monotonic_ns()
        if not found:
            found = poll(timeout)
            now_ns = monotonic_ns()
        self._adaptive_poll = self._adaptive_poll.after(now_ns - began_ns)
        return found

    def _take(self, message: m.ToWorker, file: MemoryFile | None) -> None:
        match message:
            case m.RespondTo():  # the most frequent by far
                pass
            case m.Ping(number=number):
                self._channel.send(m.encode(m.Pong(number)))
                return
            case m.CloseSession(session=session):
                self._scheduler.perform(command_of(message))
                self._operations.pop(session, None)
                self._blanks.pop(session, None)
                self._windows.pop(session, None)
                self._channel.send(m.encode(m.SessionClosed(session)))
                return
            case m.OpenSession(session=session, operation=operation):
                self._operations[session] = operation
                self._opened += 1
                self._open(message, file)
                return
            case m.LendArena():
                use_arena(file)
                return
            case m.SnapshotSession(session=session) if file is not None:
                self._blanks[session] = file
                self._operations[session] = message.operation
            case m.LoadValue(session=session, operation=operation):
                self._operations[session] = operation
                self._scheduler.perform(load_command(message, file))
                return
            case m.RunCell() | m.RebaseSession() | m.SnapshotSession():
                self._operations[message.session] = message.operation
        self._scheduler.perform(command_of(message))

    def _input_of(self, message: m.GiveInput, file: MemoryFile | None, *, lost: bool) -> c.AnswerInput:
        """Return the command that gives a guest what it asked of an input."""
        session, part = SessionId(message.session), InputPart(message.data, message.status)
        if not message.filled:
            return c.AnswerInput(session, part)
        if file is not None or lost:
            self._windows.pop(session, None)
        try:
            if file is not None:
                self._windows[session] = mapped_window(file)
        except HostExhausted:
            lost = True
        window = self._windows.get(session)
        if window is None:
            # The host goes on with one that is not here, as long as the cell does.
            return c.AnswerInput(session, InputPart(status=FAILED))
        return c.AnswerInput(session, InputPart(window[: message.filled]))

    def _open(self, message: m.OpenSession, file: MemoryFile | None) -> None:
        session = message.session
        try:
            command = open_command(message, lambda report: self._tell(session, report), self._images, file)
        except RlmWasmError as error:
            self._tell(session, c.Done(error=error))
        else:
            self._scheduler.perform(command)

    def _tell(self, session: int, report: c.Report) -> None:
        if self._closed:
            return
        try:
            self._report(session, report)
        except Exception as error:
            # Whoever called takes it for a host that is gone, and ends this session without a word.
            self._untold = error
            raise

    def _report(self, session: int, report: c.Report) -> None:
        into = self._blanks.pop(session, None) if isinstance(report, c.Done) else None
        if isinstance(report, c.Done):
            self._windows.pop(session, None)  # which the host cuts
        try:
            message = report_of(session, self._operations[session], report, into)
        except Exception as error:  # noqa: BLE001 - for example no room for an image: the operation still ends
            told = (
                error
                if isinstance(error, HostExhausted)
                else wrap_os_error(error, "a report could not be made")
            )
            message = report_of(session, self._operations[session], c.Done(error=told))
        self._channel.send(m.encode(message))
        self._asked = isinstance(report, c.Requested | c.InputWanted)


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Run sessions for whoever holds the other end of `connection`; return when that end is closed."""
    Server(connection).run()
