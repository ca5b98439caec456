"""A compromised worker: it serves and answers pings, and never says that a session is closed."""

from __future__ import annotations

import socket

from rlm_wasm.image.memfd import MemoryFile
from rlm_wasm.wire import worker_messages as m
from rlm_wasm.worker.lockdown.report import LockdownReport
from rlm_wasm.worker.serve import Server
from rlm_wasm.worker.serving import warm

__all__ = ["serve", "warm"]


class SilentCloser(Server):
    """Overlooks what it is told to close."""

    def _take(self, message: m.ToWorker, file: MemoryFile | None) -> None:
        if not isinstance(message, m.CloseSession):
            super()._take(message, file)


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Serve like any worker, but for that."""
    SilentCloser(connection).run()
