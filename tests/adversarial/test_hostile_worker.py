"""A worker process that belongs to an attacker, at the other end of its host's socket."""

from __future__ import annotations

import array
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.errors import WorkerLost
from rlm_wasm.host.cell_slots import CellSlots
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.process_handle import ProcessHandle
from rlm_wasm.host.readiness import ended_in_time
from rlm_wasm.host.remote_session import ProcessSession
from rlm_wasm.ids import SessionId
from rlm_wasm.protocol import commands as c
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.frames import Channel
from rlm_wasm.protocol.input_reads import InputOp
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot
from rlm_wasm.results import CellResult
from rlm_wasm.system.memfd import MemoryFile
from tests.support.machine_grade import HERE, strict_here
from tests.support.pool_facts import alive, until
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("healthy_host")]

CAP = 4 << 20
MIB = 1 << 20
RESULT = CellResult(result="2", fuel_used=10, memory_peak_bytes=65_536, executed_ns=10)


class Attacker:
    """A process whose only part is to be killed, and the worker's end of the socket, in the test's hands."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        ours, self.socket = socket.socketpair()
        self.child = ProcessHandle(self.process.pid, os.pidfd_open(self.process.pid), ours)
        self.ended: list[str] = []
        self.opposite: Connection | None = None

    def connection(self) -> Connection:
        self.opposite = connection = Connection(
            self.child,
            tenant="a",
            report_bytes_max=CAP,
            unsent_bytes_max=CAP,
            hang_ms_max=1_000,
            ended=lambda connection: self.ended.append(str(connection.lost)),
            closed=lambda connection, session: None,
        )
        return connection

    def say(self, report: m.FromWorker, file: int | None = None) -> None:
        payload = m.encode(report)
        data = struct.pack("<I", len(payload) | ((1 << 31) if file is not None else 0)) + payload
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))] if file is not None else []
        )
        self.socket.sendmsg([data], rights)

    def lent(self) -> MemoryFile:
        """Return the file that came with what the host sent last."""
        channel = Channel(self.socket, frame_bytes_max=CAP, unsent_bytes_max=CAP)
        files: list[MemoryFile] = []
        while frames := channel.receive():
            files += [MemoryFile(frame.file) for frame in frames if frame.file is not None]
        return files[-1]

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def under_way(
    attacker: Attacker, operate: Callable[[ProcessSession], Awaitable[object]]
) -> AsyncIterator[list[object]]:
    """A session that opens in a hostile worker and begins an operation, and how that ended, once it has.

    Left when it has ended, or at an error; then nothing of the worker is left.
    """
    found: list[object] = []
    try:
        connection = attacker.connection()
        cell_slot = CellSlots(8).cell_slot("a")
        session = ProcessSession(connection, SessionId(1), session_limits(), boundary_limits(), cell_slot)

        async def drive() -> None:
            try:
                await session.open_in(session_limits(), None)
                found.append(await operate(session))
            except WorkerLost as lost:
                found.append(lost)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.serve)
                tasks.start_soon(drive)
                await until(lambda: connection.busy)
                attacker.say(m.Ready())
                attacker.say(m.OperationDone(1, 1))
                await until(lambda: connection._protocol._operations == 2)
                try:
                    yield found
                    await until(lambda: found)
                finally:
                    connection.end("the test is over")
        assert await ended_in_time(connection.child, 5)
    finally:
        attacker.close()


async def _attacked(attack: Callable[[Attacker], object], *, snapshot: bool = False) -> list[object]:
    """Open a session in a hostile worker, begin an operation, let it attack; return how that ended."""
    attacker = Attacker()

    async def operate(session: ProcessSession) -> object:
        if snapshot:
            return await session.snapshot()
        return (await session.run(Cell("1+1", cell_limits()))).outcome

    async with under_way(attacker, operate) as found:
        attack(attacker)
    assert len(attacker.ended) == 1
    return found


def _raw(data: bytes) -> Callable[[Attacker], object]:
    return lambda attacker: attacker.socket.sendall(data)


def _reports(*reports: m.FromWorker) -> Callable[[Attacker], object]:
    return lambda attacker: [attacker.say(report) for report in reports]


_ATTACKS: dict[str, Callable[[Attacker], object]] = {
    "an oversized frame": _raw(struct.pack("<I", CAP + 1)),
    "no message": _raw(struct.pack("<I", 3) + b"abc"),
    "an empty frame": _raw(struct.pack("<I", 0)),
    "another session": _reports(m.GuestRequest(2, 2, b"?")),
    "another operation": _reports(m.OperationDone(1, 7, result=RESULT)),
    "an operation that is over": _reports(m.OperationDone(1, 1)),
    "ready again": _reports(m.Ready()),
    "a pong": _reports(m.Pong(1)),
    "a session closed that was not": _reports(m.SessionClosed(1)),
    "a read of an input for another session": _reports(m.InputRequest(2, 2, InputOp.READ, 1, 0, 1, b"")),
    "a read of an input that is too long": _reports(m.InputRequest(1, 2, InputOp.READ, 1, 0, 2**40, b"")),
    "two reads of an input": _reports(
        m.InputRequest(1, 2, InputOp.READ, 1, 0, 1, b""), m.InputRequest(1, 2, InputOp.READ, 1, 0, 1, b"")
    ),
    "two requests": _reports(m.GuestRequest(1, 2, b"?"), m.GuestRequest(1, 2, b"?")),
    "an error of no name": _reports(m.OperationDone(1, 2, error=m.ErrorReport("SystemExit", "x"))),
    "no result": _reports(m.OperationDone(1, 2)),
    "a file for nothing": lambda attacker: attacker.say(m.Pong(1), 0),
    "a file behind a breach": lambda attacker: [attacker.say(m.Pong(1)), attacker.say(m.Pong(2), 0)],
    "a closed socket": lambda attacker: attacker.socket.close(),
    "a killed process": lambda attacker: (attacker.process.kill(), attacker.socket.close()),
}


@pytest.mark.threat("T-056")
@pytest.mark.threat("T-057")
@pytest.mark.parametrize("attack", _ATTACKS.values(), ids=_ATTACKS.keys())
async def test_what_is_no_report_ends_the_worker_with_one_typed_end(
    attack: Callable[[Attacker], object],
) -> None:
    (outcome,) = await _attacked(attack)
    assert outcome == "worker_lost"


@pytest.mark.threat("T-057")
@pytest.mark.parametrize("seed", range(10))
async def test_random_bytes_end_the_worker_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    data = draw.randbytes(3_000)
    (outcome,) = await _attacked(lambda attacker: (attacker.socket.sendall(data), attacker.socket.close()))
    assert outcome == "worker_lost"


@pytest.mark.threat("T-058")
async def test_no_file_is_taken_from_a_worker() -> None:
    folder = os.open("/", os.O_RDONLY)
    sealed = MemoryFile.of("rlm-test", struct.pack("<QQ", 0, 4096) + bytes(4096))
    try:
        for file in (folder, sealed.fd):
            report = m.OperationDone(1, 2, image=m.ImageReport(65_536, 0, 1))
            (outcome,) = await _attacked(lambda a, file=file, r=report: a.say(r, file), snapshot=True)
            assert isinstance(outcome, WorkerLost)
    finally:
        os.close(folder)


@pytest.mark.threat("T-058")
@pytest.mark.parametrize("sealed", [True, False])
async def test_only_an_image_that_its_worker_cannot_change_any_more_is_one(sealed: bool) -> None:
    content = struct.pack("<QQ", 0, 4096) + bytes(4096)

    def attack(attacker: Attacker) -> None:
        file = attacker.lent()
        file.fill(len(content), [(0, memoryview(content))])
        if sealed:
            file.seal()
        attacker.say(m.OperationDone(1, 2, image=m.ImageReport(65_536, 0, 1)))

    (outcome,) = await _attacked(attack, snapshot=True)
    assert isinstance(outcome, WorkerSnapshot if sealed else WorkerLost)


def _killed_by_its_host(attacker: Attacker) -> None:
    assert attacker.opposite is not None
    attacker.opposite.end("it does not answer")


@pytest.mark.threat("T-144")
@pytest.mark.parametrize(
    "ends",
    [
        lambda attacker: attacker.socket.close(),
        lambda attacker: attacker.say(m.OperationDone(1, 2, error=m.ErrorReport("HostExhausted", "none"))),
        _killed_by_its_host,
    ],
    ids=["it leaves", "it reports an error", "its host ends it"],
)
async def test_a_worker_that_ends_with_a_file_that_it_sealed_leaves_nobody_waiting(
    ends: Callable[[Attacker], object],
) -> None:
    def attack(attacker: Attacker) -> None:
        file = attacker.lent()
        file.fill(MIB, [(0, memoryview(b"x" * MIB))])
        file.seal()
        ends(attacker)

    (lost,) = await _attacked(attack, snapshot=True)
    assert isinstance(lost, WorkerLost)


@pytest.mark.threat("T-144")
async def test_whatever_telling_one_session_leads_to_all_others_are_told_and_the_process_ends() -> None:
    attacker = Attacker()
    connection = attacker.connection()
    told: list[c.Report] = []

    def fail(report: c.Report) -> None:
        raise RuntimeError("a bug of whoever hears it")

    try:
        for number, sink in enumerate((told.append, fail, told.append), 1):
            connection.submit(
                c.Open(SessionId(number), session_limits(), boundary_limits(), os.urandom, sink, None)
            )
        with pytest.raises(RuntimeError, match="a bug of"):
            connection.end("it does not answer")
        assert [type(report.error) for report in told if isinstance(report, c.Done)] == [WorkerLost] * 2
        assert len(attacker.ended) == 1
        assert await ended_in_time(connection.child, 5)
    finally:
        attacker.close()


@pytest.mark.threat("T-058")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<QQ", 0, 4096),
        struct.pack("<QQ", 1, 4096) + bytes(4096),
        struct.pack("<QQ", 65_536, 4096) + bytes(4096),
        struct.pack("<QQ", 0, 0),
        struct.pack("<QQ", 0, (1 << 64) - 4096) + bytes(4096),
        struct.pack("<QQ", 0, 4096) + bytes(4097),
    ],
)
async def test_an_image_that_lies_about_its_pages_ends_its_worker(content: bytes) -> None:
    def attack(attacker: Attacker) -> None:
        file = attacker.lent()
        file.fill(len(content), [(0, memoryview(content))])
        file.seal()
        attacker.say(m.OperationDone(1, 2, image=m.ImageReport(65_536, 0, 1)))

    (lost,) = await _attacked(attack, snapshot=True)
    assert isinstance(lost, WorkerLost)


@pytest.mark.guest
@pytest.mark.threat("T-069")
async def test_strict_runs_each_guest_in_a_locked_process_of_its_own(guest: Any) -> None:
    async with Sandbox(strict_here()) as sandbox, await sandbox.session() as session:
        assert (await session.exec("6 * 7")).result == "42"
        assert session.lockdown == HERE.value
        (connection,) = sandbox._worker.connections  # type: ignore[attr-defined]
        assert connection.child.pid != os.getpid()
        status = Path(f"/proc/{connection.child.pid}/status").read_text()  # noqa: ASYNC240
        assert "Seccomp:\t2" in status
        assert alive(connection.child)
