"""A worker that says every legal thing at every illegal time, with any values: its host takes it all.

The host's commands are drawn too, as a pool and its sessions may give them; time is given. Whatever comes,
nothing is raised, each operation ends once, each session that was closed is told so once, nothing is owed for
ever, and no file is left.

    python -m tests.boundary_fuzz.test_worker_fuzz 10000
"""

from __future__ import annotations

import gc
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from time import monotonic_ns
from typing import Any

import anyio
import pytest

from rlm_wasm import errors
from rlm_wasm.errors import CellCancelled, DeadlineExceeded, GuestTrap, WorkerLost
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.ids import SessionId
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol import commands as c
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.frames import Channel, PeerGone
from rlm_wasm.protocol.input_reads import FAILED, MISSING, WINDOW_BYTES_MAX, InputOp, InputPart
from rlm_wasm.protocol.text_layout import LaidOut, encoding_of
from rlm_wasm.results import CellResult
from rlm_wasm.system.memfd import MemoryFile
from tests.support.host_health import assert_same, health
from tests.support.sandbox_facts import MIB, boundary_limits, cell_limits, session_limits

CAP = 4 * MIB
STEPS = 300
SESSIONS_MAX = 5
# How often a worker says what is due; the rest is drawn.
DUE = (0.9, 0.97, 1.0)
LIMITS = session_limits(memory_bytes_max=2 * MIB, context_bytes_max=MIB, checkpoint_bytes_max=MIB)
CELL = cell_limits(requests_max=4)
KINDS = [name for name in vars(errors) if name[0].isupper()] + ["", "SystemExit"]
STATES = ["alive", "restored", "lost", "?"]
BEAT_NS = 100_000_000


@dataclass
class Peer:
    """The worker's end: it reads what it is told, and says whatever it likes."""

    draw: Random
    channel: Channel
    due_share: float
    # What it was told and has not answered, by session; sessions it was told to close; files it was lent.
    due: dict[int, Any] = field(default_factory=dict)
    closing: list[int] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    files: dict[int, MemoryFile] = field(default_factory=dict)
    ping: int | None = None

    def hear(self) -> None:
        for frame in self.channel.receive():
            message = m.decode_command(frame.payload)
            file = None if frame.file is None else MemoryFile(frame.file)
            match message:
                case m.CloseSession(session=session):
                    self.closing.append(session)
                case m.Ping(number=number):
                    self.ping = number
                case m.RespondTo() | m.GiveInput() | m.RefuelCell() | m.StopOperation():
                    self.waiting.discard(message.session)
                    if file is not None and self.draw.random() < 0.5:
                        os.ftruncate(file.fd, self.draw.choice([0, 4_096]))
                case m.OpenSession() | m.LoadValue() | m.RunCell() | m.RebaseSession() | m.SnapshotSession():
                    self.due[message.session] = message
                    if file is not None:
                        self.files[message.session] = file

    def say(self) -> None:
        draw = self.draw
        if draw.random() >= self.due_share:
            self._anything()
        elif self.closing and draw.random() < 0.3:
            session = self.closing.pop(0)
            self.due.pop(session, None)
            self._send(m.SessionClosed(session))
        elif self.ping is not None and not self.closing:
            self._send(m.Pong(self.ping))
            self.ping = None
        elif free := [each for each in self.due.items() if each[0] not in self.waiting]:
            self._what_is_due(*draw.choice(free))

    def _what_is_due(self, session: int, told: Any) -> None:
        draw = self.draw
        if isinstance(told, m.RunCell) and draw.random() < 0.4:
            if draw.random() < 0.3:
                self._send(_asked_of_an_input(draw, session, told.operation))
            elif told.cell.refuels and draw.random() < 0.3:
                self._send(m.FuelLow(session, told.operation))
            else:
                self._send(m.GuestRequest(session, told.operation, b"?"))
            self.waiting.add(session)
            return
        del self.due[session]
        result = image = error = None
        if draw.random() < 0.15:
            kinds = ["HostExhausted", "InternalError", *["MemoryExceeded"] * isinstance(told, m.LoadValue)]
            error = m.ErrorReport(draw.choice(kinds), "x")
        elif isinstance(told, m.RunCell):
            lost = draw.random() < 0.2
            result = CellResult(
                GuestTrap("x") if lost else None, "a", "", None, ("x",), 5, 65_536, 10**12,
                SessionState.LOST if lost else SessionState.ALIVE,
            )  # fmt: skip
        elif isinstance(told, m.SnapshotSession) and session in self.files:
            page = struct.pack("<QQ", 0, 4096) + bytes(4096)
            self.files[session].fill(len(page), [(0, memoryview(page))])
            self.files[session].seal()
            image = m.ImageReport(65_536, 0, 1)
        self._send(m.OperationDone(session, told.operation, result, image, error))

    def _anything(self) -> None:
        draw = self.draw
        session, operation = draw.randrange(SESSIONS_MAX + 2), draw.randrange(20)
        error = m.ErrorReport(draw.choice(KINDS), "\x1b" * draw.randrange(9), draw.choice([None, "h"]))
        # What it sends is not what the host's own decoder would make: any error, any word for the session.
        said: Any = draw.choice([None, error])
        state: Any = draw.choice(STATES)
        result = CellResult(
            said, "o" * draw.randrange(9), "", None, (),
            draw.choice([0, 10**6, 2**62]), draw.choice([0, 2**62]), draw.choice([0, 2**62]), state,
        )  # fmt: skip
        image = m.ImageReport(draw.choice([0, 65_536, 2**62]), draw.choice([0, 2**62]), draw.randrange(3))
        drawn = (
            m.Ready(),
            m.Pong(draw.randrange(9)),
            m.SessionClosed(session),
            m.FuelLow(session, operation),
            m.GuestRequest(session, operation, draw.randbytes(5)),
            _asked_of_an_input(draw, session, operation, most=2**62),
            m.OperationDone(
                session,
                operation,
                draw.choice([None, result]),
                draw.choice([None, None, image]),
                draw.choice([None, error]),
            ),
        )
        match draw.randrange(12):
            case 0:
                self.channel.send(draw.randbytes(draw.randrange(30)))
            case 1:
                self.channel.send(m.encode(draw.choice(drawn)), 0)
            case _:
                self._send(draw.choice(drawn))

    def _send(self, report: m.FromWorker) -> None:
        self.channel.send(m.encode(report))


def _asked_of_an_input(draw: Random, session: int, operation: int, most: int = 2**20) -> m.InputRequest:
    op = draw.choice([*InputOp, *[InputOp.READ] * 4])
    length = draw.choice(
        [1, most, WINDOW_BYTES_MAX, WINDOW_BYTES_MAX] if op is InputOp.READ else [0, 1, most]
    )
    needle = b"x" * (op in (InputOp.FIND, InputOp.COUNT))
    return m.InputRequest(session, operation, op, draw.randrange(3), draw.choice([0, most]), length, needle)


class Fuzz:
    """One worker's life under a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        # Its only part is to be killed.
        self.process = subprocess.Popen(["sleep", "600"])
        ours, theirs = socket.socketpair()
        self.socket = theirs
        self.connection = Connection(
            ProcessHandle(self.process.pid, os.pidfd_open(self.process.pid), ours),
            tenant="a",
            report_bytes_max=CAP,
            unsent_bytes_max=CAP,
            hang_ms_max=500,
            ended=lambda connection: self.counts.update(["ended"]),
            closed=lambda connection, session: self.counts.update([f"left {session}"]),
        )
        self.peer = Peer(
            self.draw,
            Channel(theirs, frame_bytes_max=1 << 24, unsent_bytes_max=1 << 24),
            self.draw.choice(DUE),
        )
        self.counts: Counter[str] = Counter()
        self.wrong: list[BaseException] = []
        self.busy: dict[int, str] = {}
        self.asked: dict[int, c.Report] = {}
        self.open: list[int] = []
        self.images: list[Any] = []
        self.sessions = 0
        self.begun = 0
        self.now_ns = monotonic_ns()

    def run(self) -> Counter[str]:
        self._take_in(m.Ready())
        for _ in range(STEPS):
            if self.connection.lost is not None:
                break
            self._command()
            self._hear_and_say()
            if self.draw.random() < 0.2:
                self._beat()
        # It says nothing any more. Nobody waits for ever.
        for _ in range(600):
            if not self.busy and not self.connection.busy:
                break
            self._beat()
        assert not self.wrong, self.wrong
        assert not self.busy, self.busy
        self.connection.end("the test is over")
        assert self.counts["ended"] == 1
        assert self.counts["done"] == self.begun
        assert all(number <= 1 for key, number in self.counts.items() if key.startswith(("left", "closed")))
        self._refuses_all()
        return self.counts

    def close(self) -> None:
        self.connection.end("the test is over")
        self.process.kill()
        self.process.wait()
        self.connection._channel.close()
        self.connection.child.close()
        self.socket.close()

    def _take_in(self, report: m.FromWorker) -> None:
        self.peer.channel.send(m.encode(report))
        self.connection.read()

    def _hear_and_say(self) -> None:
        try:
            self.peer.hear()
            self.peer.say()
        except PeerGone:
            pass  # the host has ended it
        self.connection.read()

    def _beat(self) -> None:
        """What the pool's supervisor does, a while later."""
        self.now_ns += BEAT_NS
        if self.connection.lost is not None or not self.connection.busy:
            return
        if (owed := self.connection.overdue(self.now_ns)) is not None:
            self.counts["overdue"] += 1
            self.connection.end(f"it does not {owed}")
            return
        self.connection.ping()

    def _sink(self, session: int) -> Any:
        def sink(report: c.Report) -> None:
            try:
                take(report)
            except BaseException as wrong:  # the connection would take it for the worker's fault
                self.wrong.append(wrong)
                raise

        def take(report: c.Report) -> None:
            if isinstance(report, c.Done):
                self.counts["done"] += 1
                kind = self.busy.pop(session)  # a second end finds nothing
                self.asked.pop(session, None)
                self._judge(kind, report)
                if kind == "Open" and report.error is not None and session in self.open:
                    self.open.remove(session)
            else:
                assert self.busy[session] == "StartCell"
                self.asked[session] = report

        return sink

    def _judge(self, kind: str, done: c.Done) -> None:
        self.counts[type(done.error).__name__] += 1
        allowed = (errors.GuestError, errors.HostExhausted, errors.UsageError)
        assert done.error is None or isinstance(done.error, allowed), done
        assert not isinstance(done.error, errors.UsageError) or "session" in str(done.error)
        if done.result is not None:
            assert kind == "StartCell"
            assert (done.result.error is None) == (done.result.outcome == "completed")
            assert done.result.executed_ns < 10**12
        if done.snapshot is not None:
            assert kind == "TakeSnapshot"
            done.snapshot.flattened()
            self.images.append(done.snapshot)

    def _command(self) -> None:
        draw = self.draw
        if len(self.open) < SESSIONS_MAX and draw.random() < 0.3:
            self.sessions += 1
            session = SessionId(self.sessions)
            start = draw.choice(self.images) if self.images and draw.random() < 0.5 else None
            self.open.append(session)
            self._begin(
                c.Open(session, LIMITS, boundary_limits(), os.urandom, self._sink(session), start=start)
            )
            return
        if not self.open:
            return
        session = SessionId(draw.choice(self.open))
        drawn = draw.random()
        if drawn < 0.05:
            self.open.remove(session)
            self.asked.pop(session, None)
            self.connection.submit(c.Close(session, lambda: self.counts.update([f"closed {session}"])))
        elif drawn < 0.1:
            self.connection.submit(c.InterruptOperation(session))
        elif drawn < 0.15:
            error = draw.choice([CellCancelled("x"), DeadlineExceeded("x"), GuestTrap("x")])
            self.asked.pop(session, None)
            self.connection.submit(c.Stop(session, error))
        elif session in self.asked:
            self.connection.submit(self._reply(session, self.asked.pop(session)))
        elif session not in self.busy:
            self._begin(draw.choice((self._run, self._load, c.Rebase, c.TakeSnapshot))(session))

    def _reply(self, session: SessionId, report: c.Report) -> c.Command:
        match report:
            case c.FuelNeeded():
                return c.Refuel(session, 7)
            case c.Requested():
                return c.AnswerRequest(session, b"{}")
            case c.InputWanted(into=into) if into is not None and self.draw.random() < 0.8:
                self.counts["windows"] += 1
                try:
                    into.put(0, memoryview(b"x" * 10_000))
                except OSError:  # its worker cut it
                    self.counts["cut"] += 1
                    into.abandon()
                    return c.AnswerInput(session, InputPart(status=FAILED))
                return c.AnswerInput(session, into.part(10_000))
        return c.AnswerInput(session, InputPart(status=MISSING))

    def _begin(self, command: Any) -> None:
        self.begun += 1
        self.busy[command.session] = type(command).__name__
        self.connection.submit(command)

    def _run(self, session: SessionId) -> c.StartCell:
        return c.StartCell(session, Cell("1", CELL, refuels=self.draw.random() < 0.5), MIB)

    def _load(self, session: SessionId) -> c.Load:
        value = "x" * self.draw.choice([5, 200_000])
        return c.Load(session, "x", LaidOut.of(value, encoding_of(value), file_from_bytes=1_000))

    def _refuses_all(self) -> None:
        """A lost worker begins nothing and takes everything else in silence."""
        for session in [SessionId(number) for number in (*self.open, self.sessions + 1)]:
            for command in (
                c.InterruptOperation(session),
                c.AnswerRequest(session, b""),
                c.Refuel(session, 1),
                c.AnswerInput(session, InputPart(b"x")),
            ):
                self.connection.submit(command)
            for begins in (c.Rebase(session), c.TakeSnapshot(session), self._run(session)):
                with pytest.raises(WorkerLost):
                    self.connection.submit(begins)


async def fuzz(seed: int) -> Counter[str]:
    await anyio.lowlevel.checkpoint()
    made = Fuzz(seed)
    try:
        return made.run()
    finally:
        made.close()


@pytest.mark.anyio
@pytest.mark.threat("T-125")
@pytest.mark.parametrize("part", range(8))
async def test_whatever_a_worker_says_each_operation_ends_once_and_its_host_is_well(part: int) -> None:
    before = health()
    counts: Counter[str] = Counter()
    for seed in range(part * 25, (part + 1) * 25):
        counts += await fuzz(seed)
    gc.collect()
    assert_same(before, health())
    # It came far enough to mean something.
    assert counts["done"] > 300
    assert counts["overdue"] > 0
    assert counts["WorkerLost"] > 10
    assert counts["windows"] > 0


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for number in range(int(sys.argv[1])):
        try:
            total += anyio.run(fuzz, 1_000_000 + number)
        except BaseException:
            print(f"seed {1_000_000 + number}")
            raise
    print({key: number for key, number in total.items() if " " not in key})
