"""A real HTTP server on loopback that misbehaves as told, and a way to ask it one question."""

from __future__ import annotations

import json
import os
import socketserver
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.registry import open_provider
from rlm_wasm.scheduler.messages import Message
from tests.support.machine_grade import strict_here

KEY = "sk-live-0123456789abcdefXYZ"
KEY_VARIABLE = "TEST_PROVIDER_KEY"


@dataclass
class Seen:
    """One request as the server received it."""

    path: str
    headers: dict[str, str]
    body: dict[str, object]


Write = Callable[[bytes], None]
Behaviour = Callable[[Seen, Write], None]


@dataclass
class Loopback:
    """The server's side of a test: what to do, what was seen, and when the client hung up."""

    port: int
    behaviour: Behaviour | None = None
    requests: list[Seen] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    hold: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        loopback: Loopback = self.server.loopback
        request_line = self.rfile.readline().decode()
        if not request_line:
            return
        headers = {}
        while line := self.rfile.readline().strip().decode():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        # A proxy is asked for a tunnel without a body.
        body = json.loads(self.rfile.read(int(headers.get("content-length", 0))) or b"{}")
        seen = Seen(request_line.split(" ")[1], headers, body)
        loopback.requests.append(seen)
        loopback.arrived.set()
        try:
            loopback.behaviour(seen, self.wfile.write)
            if loopback.hold:  # say no more until the client hangs up
                assert self.connection.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
        loopback.hung_up.set()


class _Server(socketserver.ThreadingTCPServer):
    # Closing joins every handler, so no test leaves a thread behind.
    daemon_threads = False
    block_on_close = True
    # A full backlog makes the kernel retry after a second.
    request_queue_size = 64


@contextmanager
def loopback_server() -> Iterator[Loopback]:
    """Serve on a free port until the block ends and every handler has returned."""
    with _Server(("127.0.0.1", 0), _Handler) as tcp:
        tcp.loopback = Loopback(tcp.server_address[1])
        thread = threading.Thread(target=tcp.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield tcp.loopback
        finally:
            tcp.shutdown()
            thread.join()


def http(status: str, body: bytes | str, *headers: str) -> bytes:
    """Return a whole HTTP response that closes the connection."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", f"Content-Length: {len(raw)}", "", ""]
    return "\r\n".join(lines).encode() + raw


def completion_body(content: object = "42", **changes: object) -> str:
    """Return the JSON of a good chat completion, with top-level members replaced."""
    document = {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
    return json.dumps(document | changes)


def policy_for(url: str, **changes: object) -> Policy:
    """Return strict with the endpoint at `url`."""
    endpoint = {"base_url": url, "api_key_env": KEY_VARIABLE} | changes
    return strict_here().replace(providers={"openai": endpoint})


def query(text: str = "What is six times seven?", *, timeout_ms: int = 30_000) -> Query:
    return Query("gpt-5-mini", (Message("user", text),), 512, timeout_ms)


async def ask(url: str, question: Query | None = None, *, key: str = KEY, **changes: object) -> Completion:
    """Open a provider on `url`, ask one question, close it."""
    provider, name = open_provider("openai:gpt-5-mini", policy_for(url, **changes), {KEY_VARIABLE: key})
    assert name == "gpt-5-mini"
    try:
        return await provider.complete(question or query())
    finally:
        await provider.aclose()


async def failure_of(url: str, question: Query | None = None, **changes: object) -> ProviderFailure:
    """Ask, expect a failure, and check that nothing that hangs on it shows the key."""
    with pytest.raises(ProviderFailure) as caught:
        await ask(url, question, **changes)
    failure = caught.value
    assert_key_hidden(failure)
    return failure


def assert_key_hidden(failure: ProviderFailure) -> None:
    """Look where a log, a debugger's traceback or an error reporter would look."""
    assert failure.__cause__ is None
    assert failure.__context__ is None
    shown = [str(failure), repr(failure), repr(failure.args), repr(failure.error), str(failure.error.hint)]
    # Locals of our own frames only: the test's hold the key because the test chose it.
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(failure.__traceback__)
        if f"rlm_wasm{os.sep}providers" in frame.f_code.co_filename
    ]
    assert frames, "the failure must come from the provider"
    for frame, _ in frames:
        shown += [repr(value) for value in frame.f_locals.values()]
        shown += [repr(vars(value)) for value in frame.f_locals.values() if hasattr(value, "__dict__")]
    assert KEY not in "\n".join(shown)
