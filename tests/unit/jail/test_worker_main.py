"""A worker's side of its socket: what it cannot tell its host ends it, since the host waits for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rlm_wasm.jail.worker_main import Server
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.frames import Channel
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


@dataclass
class _Host:
    """The other end: gives commands, lets the server take steps, and reads what it says."""

    server: Server
    channel: Channel

    def send(self, message: m.ToWorker) -> None:
        self.channel.send(m.encode(message))

    def report(self, steps_max: int = 10_000) -> m.FromWorker:
        """Let the server go on until it says something."""
        for _ in range(steps_max):
            self.server.step()
            for frame in self.channel.receive():
                return m.decode_report(frame.payload)
        raise AssertionError("the worker says nothing")

    def ping_on(self) -> None:
        """Ask for signs of life, and get them: a host with patience for such a worker."""
        for number in range(1_000):
            self.send(m.Ping(number))
            assert isinstance(self.report(), m.Pong)

    def run(self, operation: int, source: str) -> None:
        self.send(m.RunCell(1, operation, Cell(source, cell_limits()), 0))


@contextlib.contextmanager
def served() -> Iterator[_Host]:
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    channel = Channel(ours, frame_bytes_max=1 << 24, unsent_bytes_max=1 << 24)
    try:
        host = _Host(server, channel)
        host.send(m.OpenSession(1, 1, session_limits(), boundary_limits()))
        assert isinstance(host.report(), m.OperationDone)
        yield host
    finally:
        server.close()
        channel.close()


def refusing(send: Any, error: Exception) -> Any:
    """Return a `send` that fails once, for what is no answer to a ping."""
    left = [error]

    def give(payload: bytes, file: int | None = None) -> None:
        if left and not isinstance(m.decode_report(payload), m.Pong):
            raise left.pop()
        send(payload, file)

    return give


def test_a_cell_is_run_and_told() -> None:
    with served() as host:
        host.run(2, "6 * 7")
        done = host.report()
        assert isinstance(done, m.OperationDone)
        assert done.result is not None
        assert done.result.result == "42"


@pytest.mark.parametrize("source", ["1 + 1", "llm_query('?')"], ids=["an end", "a request"])
@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "too many open files")], ids=repr)
def test_a_report_that_cannot_be_sent_ends_the_worker_and_with_it_the_hosts_wait(
    monkeypatch: pytest.MonkeyPatch, source: str, error: Exception
) -> None:
    """Else the session is gone, pings are answered, and the host waits for an end that never comes."""
    with served() as host:
        monkeypatch.setattr(host.server._channel, "send", refusing(host.server._channel.send, error))
        host.run(2, source)
        with pytest.raises(type(error)):
            host.ping_on()
