"""A locked worker whose native code belongs to an attacker who keeps it alive: it serves, and lies as told.

A cell whose source begins with LIE and a JSON document says what it does from then on, that cell included.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import time
from typing import Any, Final

from msgspec import structs

from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.jail.worker_entry import warm
from rlm_wasm.jail.worker_main import Server
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.results import CellResult
from rlm_wasm.system.memfd import MemoryFile

__all__ = ["LIE", "lie", "serve", "warm"]

LIE: Final = "#LIE "
_BLOCK: Final = b"x" * (1 << 20)
HONEST: Final = CellResult(fuel_used=10, memory_peak_bytes=65_536, executed_ns=10)


def lie(*, mute: tuple[str, ...] = (), errors: dict[str, str] | None = None, **more: Any) -> str:
    """Return the cell that has the worker lie.

    `mute` names messages it takes and forgets, `errors` the kind of error with which it ends others at once.
    `spin`: it computes all the time. `hoard`: it writes so many bytes into its arena, and keeps it mapped.
    `result`: fields of the report of this cell.
    """
    return LIE + json.dumps({"mute": mute, "errors": errors or {}, **more})


class Liar(Server):
    """A server that does as it was told by a cell."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._told: dict[str, Any] = {"mute": [], "errors": {}}
        self._hoarded: list[mmap.mmap] = []
        self._arena: MemoryFile | None = None

    def _take(self, message: m.ToWorker, file: MemoryFile | None) -> None:
        name = type(message).__name__
        told_now = isinstance(message, m.RunCell) and message.cell.source.startswith(LIE)
        if isinstance(message, m.RunCell) and told_now:
            self._told = json.loads(message.cell.source.removeprefix(LIE))
        if name in self._told["mute"]:
            return
        if isinstance(message, m.LendArena):
            self._arena = file
        if told_now and self._told.get("hoard") and self._arena is not None:
            for at in range(0, self._told["hoard"], len(_BLOCK)):
                os.pwrite(self._arena.fd, _BLOCK, at)
            self._hoarded.append(mmap.mmap(self._arena.fd, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE))
        kind = self._told["errors"].get(name)
        if kind is not None:
            error = m.ErrorReport(kind, "made up by the worker")
            self._say(m.OperationDone(message.session, message.operation, error=error))  # type: ignore[union-attr]
        elif isinstance(message, m.RunCell) and told_now:
            report = structs.replace(HONEST, **self._told.get("result", {}))
            self._say(m.OperationDone(message.session, message.operation, result=report))
        else:
            super()._take(message, file)

    def _say(self, report: m.FromWorker) -> None:
        self._channel.send(m.encode(report))

    def step(self) -> None:
        until_ns = time.monotonic_ns() + 20_000_000
        while self._told.get("spin") and time.monotonic_ns() < until_ns:
            pass
        super().step()

    def _wait(self) -> bool:
        if self._told.get("spin") and not self._poll.poll(0):
            return False
        return super()._wait()


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Serve until the host closes the socket."""
    Liar(connection).run()
