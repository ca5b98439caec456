"""Zygotes for tests, and what comes out of one worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rlm_wasm.host.zygote import Zygote
from rlm_wasm.protocol.process_limits import ProcessLimits
from rlm_wasm.protocol.zygote_reports import Exited, Gone, Spawned
from tests.support import attacks
from tests.support.machine_grade import LAYERS_HERE
from tests.support.sandbox_facts import MIB

SECONDS_MAX = 60


def process_limits(**over: int) -> ProcessLimits:
    """Small limits for one worker; tests override what they are about."""
    values = {
        "sessions_max": 16,
        "memory_bytes_max": 128 * MIB,
        "image_bytes_max": 256 * MIB,
        "held_bytes_max": 256 * MIB,
        "files_max": 32,
        "cpu_seconds_max": 600,
    }
    return ProcessLimits(**(values | over))


@contextmanager
def zygote(entry: str, required: tuple[str, ...] = LAYERS_HERE, **limits: int) -> Iterator[Zygote]:
    """Start a zygote for an entry of tests/support; end it."""
    made = Zygote.start(f"tests.support.{entry}", process_limits(**limits), required=required)
    try:
        yield made
    finally:
        made.close()


def spawn_and_wait(made: Zygote, connection: socket.socket, seconds: float = SECONDS_MAX) -> Spawned:
    """Spawn a worker and wait until it has been forked."""
    number = made.spawn(connection)
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        for report in made.wait(left):
            assert isinstance(report, Spawned), report
            assert report.number == number
            return report
    raise AssertionError("no worker came in time")


def exit_of(made: Zygote, number: int) -> Exited:
    """Wait until a worker is gone; what else the zygote says meanwhile is dropped."""
    while True:
        reports = made.wait(SECONDS_MAX)
        assert reports, "the zygote says nothing"
        for report in reports:
            if isinstance(report, Spawned):
                os.close(report.pidfd)
            if isinstance(report, Exited) and report.number == number:
                return report
            assert not isinstance(report, Gone), report


def exchange(made: Zygote, message: dict[str, Any]) -> tuple[bytes, Exited]:
    """Fork a worker, send it one message, return its answer and how it ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(SECONDS_MAX)
        number = made.spawn(theirs)
        theirs.close()
        answer = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # it ended before it read
            ours.sendall(json.dumps(message).encode())
            while part := ours.recv(65_536):
                answer += part
    return answer, exit_of(made, number)


def attack(made: Zygote, name: str, tcp_port: int, abstract: str, neighbour: int) -> str:
    """Try one attempt in a worker; return what came of it: an error's name, a signal's, or "works"."""
    wanted = {"attack": name, "tcp_port": tcp_port, "abstract": abstract, "neighbour": neighbour}
    answer, ended = exchange(made, wanted)
    if answer:
        return answer.decode()
    if ended.exit_code == attacks.TINY_EXIT:
        return attacks.WORKS
    return signal.Signals(ended.killed_by).name if ended.killed_by else f"{ended}"


def attack_outside(name: str, tcp_port: int, abstract: str) -> str:
    """Try one attempt in a process that is not locked down."""
    command = [sys.executable, "-m", "tests.support.uncontained", name, str(tcp_port), abstract]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    return done.stdout or done.stderr[-500:]
