"""A worker for tests: everything a session may do, and every hostile cell, in a locked-down process."""

from __future__ import annotations

import json
import os
import socket
import traceback
from typing import Any

from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.vm.dirty_pages_unsafe import way_in_use
from rlm_wasm.vm.session import Session
from tests.adversarial import test_bombs, test_hostile_objects, test_recursion
from tests.support.churn import Churn
from tests.support.hostile_cells import MEMORY_BYTES, Hostile, assert_survived
from tests.support.sandbox_facts import boundary_limits, session_limits
from tests.support.warm_sessions import warm_sessions as warm

__all__ = ["serve", "warm"]


def hostile_cells() -> dict[str, Hostile]:
    """Every hostile cell of the adversarial tests, by its name."""
    found: dict[str, Hostile] = {}
    for module in (test_bombs, test_hostile_objects, test_recursion):
        for table in vars(module).values():
            if isinstance(table, dict):
                found |= {name: case for name, case in table.items() if isinstance(case, Hostile)}
    return found


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Do what one message says: {"churn": [sessions, seed]} or {"cells": [names]}; answer how it went."""
    wanted = json.loads(connection.recv(65_536))
    answer: dict[str, Any] = {}
    try:
        if "churn" in wanted:
            count, seed = wanted["churn"]
            churn = Churn(count, seed, threads=False)
            churn.run()
            answer["steps"] = dict(churn.steps)
        for name in wanted.get("cells", ()):
            answer["cell"] = name
            _survive(hostile_cells()[name])
        answer["way"] = way_in_use()
    except BaseException:  # noqa: BLE001 - told to the test
        answer["error"] = traceback.format_exc()
    connection.sendall(json.dumps(answer).encode())


def _survive(case: Hostile) -> None:
    loaded = adopted_guest()
    limits = session_limits(memory_bytes_max=MEMORY_BYTES)
    session = Session(loaded.program, loaded.facts, limits, boundary_limits(), os.urandom)
    try:
        assert_survived(session, case)
    finally:
        session.close()
