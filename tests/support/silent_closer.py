"""A compromised worker: it serves and answers pings, and never says that a session is closed."""

from __future__ import annotations

import socket

from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.jail.worker_entry import warm
from rlm_wasm.jail.worker_main import Server
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.system.memfd import MemoryFile

__all__ = ["serve", "warm"]


class SilentCloser(Server):
    """Overlooks what it is told to close."""

    def _take(self, message: m.ToWorker, file: MemoryFile | None) -> None:
        if not isinstance(message, m.CloseSession):
            super()._take(message, file)


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Serve like any worker, but for that."""
    SilentCloser(connection).run()
