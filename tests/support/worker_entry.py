"""A worker for tests: runs one session and what it is told, line by line, in a locked-down process."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import boundary_limits, run_cell, session_limits
from tests.support.warm_sessions import warm_sessions as warm

__all__ = ["serve", "warm"]


def _session() -> Session:
    loaded = adopted_guest()
    return Session(loaded.program, loaded.facts, session_limits(), boundary_limits(), os.urandom)


def serve(connection: socket.socket, report: LockdownReport) -> None:
    connection.sendall(json.dumps([[f.layer, f.applied, f.detail] for f in report.findings]).encode() + b"\n")
    session = _session()
    buffer = b""
    while part := connection.recv(65536):
        buffer += part
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            result = run_cell(session, json.loads(line))
            answer: dict[str, Any] = {
                "outcome": result.outcome,
                "result": result.result,
                "stdout": result.stdout,
            }
            connection.sendall(json.dumps(answer).encode() + b"\n")
