"""A worker that opens sessions until it may not, then one of them goes on."""

from __future__ import annotations

import json
import os
import socket

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import boundary_limits, run_cell, session_limits
from tests.support.worker_entry import warm

__all__ = ["serve", "warm"]
MANY = 64


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Say how many sessions there were, what the next one met, and what a cell of the first gives."""
    wanted = json.loads(connection.recv(1024))
    loaded = adopted_guest()
    sessions: list[Session] = []
    met = big = ""
    try:
        while len(sessions) < MANY:
            limits = session_limits(memory_bytes_max=wanted["memory_bytes_max"])
            made = Session(loaded.program, loaded.facts, limits, boundary_limits(), os.urandom)
            sessions.append(made)
            if len(sessions) == 1:
                big = run_cell(made, f"len(bytearray({wanted['bytes']}))").outcome
    except RlmWasmError as error:
        met = f"{type(error).__name__}: {error}"
    after = run_cell(sessions[0], "6 * 7")
    document = {"sessions": len(sessions), "met": met, "big": big, "after": after.result}
    connection.sendall(json.dumps(document).encode())
