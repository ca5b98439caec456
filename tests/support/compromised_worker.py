"""A worker whose native code belongs to an attacker: it runs an attempt by name, in the worker's place."""

from __future__ import annotations

import json
import os
import socket

from rlm_wasm.jail.lockdown.report import LockdownReport
from tests.support import attacks

_zygote: list[int] = []


def warm() -> None:
    """Make ready what an attempt needs that could not be made later."""
    attacks.prepare()
    _zygote[:] = [os.getpid()]


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Try what the host names; say what came of it, if there is still somebody to say it."""
    wanted = json.loads(connection.recv(4096))
    aim = attacks.Aim(_zygote[0], wanted["tcp_port"], wanted["abstract"], neighbour=wanted["neighbour"])
    connection.sendall(attacks.attempt(wanted["attack"], aim).encode())
