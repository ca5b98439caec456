"""What can happen to a worker process, its socket and the process that forks it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rlm_wasm.host.connection import Connection
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.protocol import worker_messages as m
from tests.faults.leftovers import children_of

# Longer than a worker may be silent: our own lateness must not be held against it.
LATE_SECONDS: Final = 0.4


@dataclass(frozen=True)
class Strike:
    """One kind of fault. `hits` is "worker", "zygote" or "host"; `deadly`: sessions of it cannot live on."""

    name: str
    hits: str
    deadly: bool
    strike: Callable[[WorkerPool, Connection | None], bool]


def _signal(number: int) -> Callable[[WorkerPool, Connection | None], bool]:
    def strike(pool: WorkerPool, connection: Connection | None) -> bool:
        if connection is None or connection.child.ended():
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(connection.child.pidfd, number)
        return True

    return strike


def _shut(how: int) -> Callable[[WorkerPool, Connection | None], bool]:
    def strike(pool: WorkerPool, connection: Connection | None) -> bool:
        if connection is None or connection.lost is not None:
            return False
        with contextlib.suppress(OSError):
            connection.child.connection.shutdown(how)
        return True

    return strike


def _deaf(pool: WorkerPool, connection: Connection | None) -> bool:
    """It reads no more, and the pipe to it is full at once."""
    if connection is None or connection.lost is not None or connection.child.ended():
        return False
    connection.child.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return _signal(signal.SIGSTOP)(pool, connection)


def _no_memory(pool: WorkerPool, connection: Connection | None) -> bool:
    """It gets no more memory than it has, whatever it asks for."""
    if connection is None or connection.child.ended():
        return False
    try:
        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.prlimit(connection.child.pid, which, (1 << 20, 1 << 20))
    except (PermissionError, ProcessLookupError):
        return False
    return True


def _no_files(pool: WorkerPool, connection: Connection | None) -> bool:
    """It can make no descriptor and no file of any size: images cannot be written nor received."""
    if connection is None or connection.child.ended():
        return False
    try:
        resource.prlimit(connection.child.pid, resource.RLIMIT_NOFILE, (0, 0))
        resource.prlimit(connection.child.pid, resource.RLIMIT_FSIZE, (0, 0))
    except (PermissionError, ProcessLookupError):
        return False
    return True


def _mute(pool: WorkerPool, connection: Connection | None) -> bool:
    """It answers pings and reports nothing else any more, as one that belongs to an attacker may."""
    if connection is None or connection.lost is not None or connection.child.ended():
        return False
    channel = connection._channel
    receive = channel.receive
    channel.receive = lambda: [  # type: ignore[method-assign]
        frame for frame in receive() if isinstance(m.decode_report(frame.payload), m.Pong)
    ]
    return True


def _late(pool: WorkerPool, connection: Connection | None) -> bool:
    """The host itself does nothing for a while, and so reads nothing."""
    time.sleep(LATE_SECONDS)
    return True


def _zygote(number: int, *, inner: bool) -> Callable[[WorkerPool, Connection | None], bool]:
    def strike(pool: WorkerPool, connection: Connection | None) -> bool:
        pids = [pid for zygotes in pool.zygote_clients if (pid := zygotes.zygote_pid) is not None]
        struck = False
        for outer in pids:
            # The process that was started, or the one in the namespaces that forks.
            for pid in children_of(outer)[:1] if inner else [outer]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    struck = True
        return struck

    return strike


STRIKES: Final = (
    Strike("kill", "worker", True, _signal(signal.SIGKILL)),
    Strike("abort", "worker", True, _signal(signal.SIGABRT)),
    Strike("stop", "worker", True, _signal(signal.SIGSTOP)),
    Strike("deaf", "worker", True, _deaf),
    Strike("mute", "worker", True, _mute),
    Strike("no memory", "worker", False, _no_memory),
    Strike("no files", "worker", False, _no_files),
    Strike("shut both", "worker", True, _shut(socket.SHUT_RDWR)),
    Strike("shut reading", "worker", True, _shut(socket.SHUT_RD)),
    Strike("shut writing", "worker", True, _shut(socket.SHUT_WR)),
    Strike("late host", "host", False, _late),
    Strike("kill zygote", "zygote", True, _zygote(signal.SIGKILL, inner=False)),
    Strike("kill zygote inside", "zygote", True, _zygote(signal.SIGKILL, inner=True)),
    Strike("stop zygote", "zygote", False, _zygote(signal.SIGSTOP, inner=True)),
    Strike("stop zygote outside", "zygote", False, _zygote(signal.SIGSTOP, inner=False)),
)
# Those of a zygote cost a new one, some tenths of a second.
WEIGHTS: Final = tuple(1 if strike.hits == "zygote" else 4 for strike in STRIKES)
