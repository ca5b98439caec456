"""An endpoint that is this machine by its name: free, or with a key in the clear, and so nowhere else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.provider_loopback import ask, completion_body, failure_of, http

pytestmark = pytest.mark.anyio


def address_elsewhere() -> str:
    """Return an address of this machine by which others reach it; nothing is sent for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, int]]:
    """Listen where others could; yields address and port."""
    address = address_elsewhere()
    came: list[bytes] = []
    with socket.create_server((address, 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                came.append(connection.recv(65_536))

        thread = threading.Thread(target=accept)
        thread.start()
        yield address, listener.getsockname()[1]
        thread.join()
        assert came == [b""], "a connection, and not a byte"


def resolve_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every name this address: as a resolver of somebody else's may."""
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *more, **named: found(address, *more, **named))


@pytest.mark.threat("T-243")
async def test_a_name_that_leads_elsewhere_is_refused_before_a_byte_is_sent(elsewhere, monkeypatch):
    address, port = elsewhere
    resolve_to(address, monkeypatch)
    failure = await failure_of(f"http://localhost:{port}/v1")
    assert (failure.retryable, failure.sent) == (False, False)
    assert f"the provider at localhost:{port} is not on this machine" in str(failure)
    assert f"that is {address}; nothing was sent to it" in str(failure)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_one_that_is_here_answers(server, host):
    try:
        socket.getaddrinfo(host, server.port)
    except socket.gaierror:
        pytest.skip(f"this machine has no address for {host}: its /etc/hosts names none")
    server.behaviour = lambda _seen, write: write(http("200 OK", completion_body("Bern")))
    assert (await ask(f"http://{host}:{server.port}/v1")).text == "Bern"
