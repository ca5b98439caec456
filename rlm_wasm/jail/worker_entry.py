"""The program of a zygote: everything done once, so that its forks have it, then `serve` in each fork.

A locked worker can open no file, so it can import nothing, and the first use of anything imports.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Final, TypeVar

from rlm_wasm.errors import CellCancelled, HostExhausted, InternalError
from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.jail.worker_main import Server, serve
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits, nothing_but
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.frames import Channel
from rlm_wasm.protocol.input_reads import OK
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.protocol.text_layout import LaidOut, encoding_of
from rlm_wasm.system.memfd import MemoryFile
from rlm_wasm.vm.warm_pool import WarmPool

__all__ = ["serve", "warm"]

_MIB: Final = 1 << 20
_CELL: Final = nothing_but(
    CellLimits,
    fuel_max=100_000_000,
    wall_ms_max=20_000,
    stdout_bytes_max=4_096,
    stderr_bytes_max=4_096,
    result_bytes_max=4_096,
    source_bytes_max=4_096,
    requests_max=8,
    sleep_ms_max=10,
)
_SESSION: Final = nothing_but(
    SessionLimits,
    memory_bytes_max=256 * _MIB,
    context_bytes_max=_MIB,
    checkpoint_bytes_max=16 * _MIB,
    files_bytes_max=16 * _MIB,
    files_max=1_000,
    clock="real",
    entropy="fresh",
)
_SEEDED: Final = replace(_SESSION, checkpoint_bytes_max=0, clock="virtual", entropy="seeded", seed=1)
_BOUNDARY: Final = nothing_but(
    BoundaryLimits,
    frame_bytes_max=65_536,
    control_frame_bytes_max=4_096,
    prompt_bytes_max=4_096,
    response_bytes_max=65_536,
    batch_items_max=8,
    nesting_max=16,
    host_wait_ms_max=10_000,
)
# Each ends in another way: a value, output, an exception, a limit met softly and hard, a trap, a sleep.
_CELLS: Final = (
    "1+1",
    "import sys; print('x'); print('y', file=sys.stderr)",
    "1/0",
    "print('x' * 10_000)",
    "bytearray(10**9)",
    "import time; time.sleep(0.001)",
    "while True: pass",
    "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "import os; os._exit(1)",
    "import _rlm; _rlm.emit(99, b'x')",
)
_RESPONSE: Final = b'{"status":"completed","text":"ok"}'
_STEPS_MAX: Final = 10_000
_Report = TypeVar("_Report", bound=m.FromWorker)


def warm() -> None:
    """Do once what a worker will be asked to do, over a socket whose other end is held here too.

    Raises:
        InternalError: something of it did not work.
    """
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    host = _Host(Channel(ours, frame_bytes_max=64 * _MIB, unsent_bytes_max=64 * _MIB), server)
    try:
        host.exercise()
    finally:
        server.close()
        host.channel.close()
    _prepare()


def _prepare() -> None:
    """Prepare a session as an idle worker does, and learn which pages that takes: a fork knows then."""
    loaded = adopted_guest()
    warm_pool = WarmPool(loaded.program, loaded.facts, size_max=1)
    try:
        warm_pool.take()
        while warm_pool.wants:
            warm_pool.work()
    finally:
        warm_pool.close()


class _Host:
    """The other end: sends a command, and lets the server work until it is done."""

    def __init__(self, channel: Channel, server: Server) -> None:
        self.channel = channel
        self._server = server
        self._operation = 0

    def exercise(self) -> None:
        self.channel.send(m.encode(m.Ping(1)))
        self._until(m.Pong)
        self._do(m.OpenSession(1, self._next(), _SESSION, _BOUNDARY))
        for text in ("small", "x" * 50_000, "漢" * 50_000, "🙂é"):
            value = LaidOut.of(text, encoding_of(text), file_from_bytes=10_000)
            size = value.units * value.encoding.bytes_per_unit
            load = m.LoadValue(
                1, self._next(), "context", True, value.units, value.encoding.bytes_per_unit,
                value.encoding.max_char, None if value.file else value.read(0, size),
            )  # fmt: skip
            self._do(load, value.file)
        lazy = m.LoadValue(
            1, self._next(), "context", False, 0, 1, 127, b"", held=HeldInput(1, b"x", "text")
        )  # fmt: skip
        self._do(lazy)
        for source in (*_CELLS, "llm_query('?')", "context._read(0, 9)"):
            self._do(self._cell(1, source))
        self._do(m.RebaseSession(1, self._next()))
        self._do(m.RunCell(1, self._next(), Cell("while True: pass", _CELL, True, refuels=True), 16 * _MIB))
        self.channel.send(m.encode(self._cell(1, "llm_query('?')")))
        self._until(m.GuestRequest)
        self.channel.send(m.encode(m.InterruptCell(1)))
        self.channel.send(m.encode(m.StopOperation(1, m.encode_error(CellCancelled("enough")))))
        self._until(m.OperationDone)
        self._do(m.OpenSession(2, self._next(), _SEEDED, _BOUNDARY))
        self._do(self._cell(2, "import random; random.random()"))
        file = MemoryFile.blank("rlm-image", _SEEDED.memory_bytes_max, may_be_sealed=True)
        image = self._do(m.SnapshotSession(2, self._next()), file).image
        if image is None:
            raise InternalError("a snapshot without an image")
        fork = m.OpenSession(3, self._next(), _SEEDED, _BOUNDARY, 1, image.size, image.virtual_ns, image.runs)
        self._do(fork, file)
        self._do(self._cell(3, "1+1"))
        for session in (1, 2, 3):
            self.channel.send(m.encode(m.CloseSession(session)))
            self._until(m.SessionClosed)

    def _next(self) -> int:
        self._operation += 1
        return self._operation

    def _cell(self, session: int, source: str) -> m.RunCell:
        return m.RunCell(session, self._next(), Cell(source, _CELL, True), 16 * _MIB)

    def _do(self, message: m.ToWorker, file: MemoryFile | None = None) -> m.OperationDone:
        self.channel.send(m.encode(message), None if file is None else file.fd)
        done = self._until(m.OperationDone)
        if done.error is not None and done.error.kind == HostExhausted.__name__:
            raise HostExhausted(done.error.message)
        if done.error is not None:
            raise InternalError(f"a worker's rehearsal failed: {done.error.message}")
        return done

    def _until(self, kind: type[_Report]) -> _Report:
        """Let the server work until such a report comes; answer what guests ask meanwhile."""
        for _ in range(_STEPS_MAX):
            self._server.step()
            for frame in self.channel.receive():
                report = m.decode_report(frame.payload)
                if isinstance(report, kind):
                    return report
                if isinstance(report, m.GuestRequest):
                    self.channel.send(m.encode(m.RespondTo(report.session, _RESPONSE)))
                elif isinstance(report, m.InputRequest):
                    data = b"x" * report.length
                    self.channel.send(m.encode(m.GiveInput(report.session, OK, data)))
                elif isinstance(report, m.FuelLow):
                    self.channel.send(m.encode(m.RefuelCell(report.session, 0)))
        raise InternalError("a worker's rehearsal does not end")
