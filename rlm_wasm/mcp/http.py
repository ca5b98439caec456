"""Serving MCP over HTTP (the transport "streamable HTTP"), for as many clients as have keys.

Every request comes through `_AdmittedRequests`: its headers, then its body, measured as that of a pipe is.
What it lets pass goes to the library, with the name of the client whose key it had. A session belongs to that
client, whichever connection it was opened over.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import anyio
import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import MCP_HEADER_BYTES_MAX, McpLimits
from rlm_wasm.mcp.admission import Admission, NotAdmitted
from rlm_wasm.mcp.message_gate import refusal_of
from rlm_wasm.mcp.server import McpServer

PATH: Final = "/mcp"
_CLIENT: Final = "rlm_wasm.client"
_BODY_SECONDS_MAX: Final = 60
_ENDING_SECONDS: Final = 2
_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, as it was named."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Read HOST:PORT; port 0 is any that is free. Raises UsageError."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise UsageError(f"{text[:200]!a} is no HOST:PORT", hint="--http 127.0.0.1:8765")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine comes to it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_any(self) -> bool:
        """Whether it is all addresses of this machine, and says nothing of how it is called."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def listen(self) -> socket.socket:
        """Return a socket that listens there. Raises UsageError."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            # The name may have come to mean another address since it was found to be of this machine.
            if self.is_loopback and not ipaddress.ip_address(found[0][4][0]).is_loopback:
                raise OSError(errno.EADDRNOTAVAIL, "it is no address of this machine alone")
            return socket.create_server(found[0][4][:2], family=found[0][0])
        except OSError as error:
            raise UsageError(f"cannot listen on {self.host}:{self.port}: {error.strerror}") from error

    def names(self, port: int) -> list[str]:
        """Return what a request may call it in its Host header, at the port that it has got."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        hosts = _LOOPBACK_NAMES if self.is_loopback else () if self.is_any else (own,)
        return [name for host in dict.fromkeys((*hosts, own)) if hosts for name in _with_port(host, port)]


def _with_port(host: str, port: int) -> list[str]:
    return [f"{host}:{port}", *([host] if port == 80 else [])]


def client_of(request: Any) -> str:
    """Return the client that a request was let pass as. Raises KeyError: it did not come by the gate."""
    client: str = request.scope[_CLIENT]
    return client


async def serve_http(
    server: McpServer,
    listening: socket.socket,
    admission: Admission,
    limits: McpLimits,
    stop: anyio.Event,
) -> None:
    """Serve until `stop`, then for as long as it takes to break off what is under way."""
    manager = StreamableHTTPSessionManager(
        app=server.server,
        session_idle_timeout=limits.session_idle_ms_max / 1000,
        max_request_body_size=limits.message_bytes_max,
        max_sessions=limits.connections_max,
    )
    config = uvicorn.Config(
        _AdmittedRequests(admission, limits.message_bytes_max, manager.handle_request),
        lifespan="off",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections_max,
        h11_max_incomplete_event_size=MCP_HEADER_BYTES_MAX,
        timeout_graceful_shutdown=_ENDING_SECONDS,
    )
    serving = uvicorn.Server(config)
    # Whoever runs this has the signals.
    serving.capture_signals = contextlib.nullcontext

    async def end() -> None:
        await stop.wait()
        serving.should_exit = True

    async with manager.run(), anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        await serving.serve(sockets=[listening])
        tasks.cancel_scope.cancel()


class _AdmittedRequests:
    """What every request comes through, as an application of ASGI."""

    def __init__(
        self,
        admission: Admission,
        body_bytes_max: int,
        serve: Callable[[dict[str, Any], _Receive, _Send], Awaitable[None]],
    ) -> None:
        self._admission = admission
        self._body_bytes_max = body_bytes_max
        self._serve = serve

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        client = self._admission.client_of(scope["headers"])
        if not isinstance(client, NotAdmitted) and scope["path"] != PATH:
            client = NotAdmitted(404, f"there is nothing here but {PATH}")
        if isinstance(client, NotAdmitted):
            await _refuse(send, client)
            return
        try:
            with anyio.fail_after(_BODY_SECONDS_MAX):
                body = await self._body(scope, receive)
        except TimeoutError:
            body = NotAdmitted(408, f"the body did not come within {_BODY_SECONDS_MAX} seconds")
        if body is None:  # whoever asked is gone
            return
        if isinstance(body, NotAdmitted):
            await _refuse(send, body)
            return
        # So that the library, too, gives a session of the protocol to nobody but who opened it.
        user = AuthenticatedUser(AccessToken(token="", client_id=client, scopes=[]))
        rest = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> dict[str, Any]:
            return rest.pop() if rest else await receive()

        await self._serve({**scope, _CLIENT: client, "user": user}, again, send)

    async def _body(self, scope: dict[str, Any], receive: _Receive) -> bytes | NotAdmitted | None:
        most = self._body_bytes_max
        too_large = NotAdmitted(413, f"a message is longer than {most} bytes, which is mcp.message_bytes_max")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > most:
                return too_large
        body = bytearray()
        while True:
            part = await receive()
            if part["type"] != "http.request":
                return None
            body += part.get("body", b"")
            if len(body) > most:
                return too_large
            if not part.get("more_body", False):
                break
        why = refusal_of(bytes(body))
        return bytes(body) if why is None else NotAdmitted(400, why)


async def _refuse(send: _Send, refused: NotAdmitted) -> None:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": refused.reason}}
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error).encode()})
