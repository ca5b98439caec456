"""A worker that ends in the way it is told: by itself, by abort, or never, spinning."""

from __future__ import annotations

import json
import os
import socket

from rlm_wasm.jail.lockdown.report import LockdownReport


def warm() -> None:
    """Nothing is needed."""


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """End."""
    match json.loads(connection.recv(1024))["end"]:
        case "abort":
            os.abort()
        case "spin":
            while True:
                pass
        case "raise":
            raise RuntimeError("a worker's own mistake")
