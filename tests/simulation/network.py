"""A network in memory under the real HTTP client: what a server sends, and when, is drawn from a seed."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final

import anyio
import httpcore
import httpx

from rlm_wasm.providers.chat_format import ChatFormat
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.http_provider import HttpProvider

FATES: Final = (
    "answers",
    "answers",
    "cannot_connect",
    "hangs_up_at_once",
    "half_a_head",
    "half_a_body",
    "no_json",
    "json_of_another_kind",
    "huge_body",
    "too_many_requests",
    "server_error",
    "silent",
    "drips",
    "no_http",
)


class _Connection(httpcore.AsyncNetworkStream):
    """One connection: takes a request, then sends what the seed drew."""

    def __init__(self, random: Random, reply: Callable[[str], str]) -> None:
        self._random = random
        self._reply = reply
        self._request = bytearray()
        self._parts: list[bytes] | None = None
        self._fate = random.choice(FATES)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        if self._parts is None:
            self._parts = self._answer()
        if self._fate == "silent":
            await anyio.sleep_forever()
        await anyio.sleep(self._random.choice((0, 0.001, 0.05, 0.4)))
        if not self._parts:
            if self._fate in ("half_a_body", "hangs_up_at_once") and self._random.random() < 0.5:
                raise httpcore.ReadError
            return b""
        part = self._parts.pop(0)
        if len(part) > max_bytes:
            self._parts.insert(0, part[max_bytes:])
        return part[:max_bytes]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await anyio.sleep(self._random.choice((0, 0, 0.01)))
        self._request += buffer

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    def get_extra_info(self, info: str) -> Any:
        return None

    def _answer(self) -> list[bytes]:
        body = bytes(self._request).partition(b"\r\n\r\n")[2]
        prompt = json.loads(body)["messages"][-1]["content"]
        usage = {"prompt_tokens": self._random.choice((1, 5, -3, 10**12)), "completion_tokens": 3}
        good = {"choices": [{"message": {"content": self._reply(prompt)}}], "usage": usage}
        document = json.dumps(good).encode()
        match self._fate:
            case "half_a_head":
                return [b"HTTP/1.1 200 OK\r\nContent-"]
            case "half_a_body":
                head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(document) + 9}\r\n\r\n"
                return [head.encode(), document[: len(document) // 2]]
            case "hangs_up_at_once":
                return []
            case "no_json":
                return _response(200, b"<html>" + document)
            case "json_of_another_kind":
                return _response(200, self._random.choice((b"[]", b"null", b'{"choices":[5]}', b'"x"')))
            case "huge_body":
                return _response(200, b" " * 60_000 + document)
            case "too_many_requests":
                wait = self._random.choice((b"0", b"1", b"9999", b"soon"))
                return _response(429, b"{}", b"Retry-After: " + wait + b"\r\n")
            case "server_error":
                return _response(self._random.choice((400, 401, 404, 500, 503)), b"no")
            case "drips":
                whole = b"".join(_response(200, document))
                return [whole[at : at + 40] for at in range(0, len(whole), 40)]
            case "no_http":
                return [b"220 mail server ready\r\n\r\n"]
            case _:
                return _response(200, document)

    @property
    def refuses(self) -> bool:
        return self._fate == "cannot_connect"


def _response(status: int, body: bytes, more: bytes = b"") -> list[bytes]:
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    return [head + more + b"\r\n", body]


class _Network(httpcore.AsyncNetworkBackend):
    def __init__(self, random: Random, reply: Callable[[str], str]) -> None:
        self._random = random
        self._reply = reply

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        await anyio.sleep(self._random.choice((0, 0.002, 0.1)))
        connection = _Connection(self._random, self._reply)
        if connection.refuses:
            raise httpcore.ConnectError
        return connection

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own transport, its pool over a network of ours."""

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._pool = httpcore.AsyncConnectionPool(network_backend=network, max_connections=64)


def openai_over(random: Random, reply: Callable[[str], str]) -> HttpProvider:
    """Return the real provider over a simulated network, whose server answers with `reply(prompt)`."""
    endpoint = Endpoint(base_url="http://127.0.0.1/v1", connect_timeout_ms=300)
    transport = _Transport(_Network(random, reply))
    return HttpProvider(
        endpoint, ChatFormat(), None, response_bytes_max=50_000, connections_max=64, transport=transport
    )
