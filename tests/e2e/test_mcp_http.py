"""`rlm-wasm mcp --http` on loopback, with the library's client, and with requests that no client makes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.command_line import COMMAND, SECONDS_MAX, environment, rlm_wasm
from tests.support.machine_grade import POLICY_HERE
from tests.support.mcp_client import MISSING, needs_mcp, problem_of
from tests.support.policy_file import write_policy
from tests.support.provider_loopback import completion_body, http, loopback_server

if not MISSING:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

pytestmark = [pytest.mark.guest, needs_mcp, pytest.mark.filterwarnings("ignore")]
ANN, BOB = "ann-key-0123456789", "bob-key-0123456789"
MODES = ["auto", "legacy"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"ann {ANN}\nbob {BOB}\n")
    return path


class Serving:
    """A server process and where it listens."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stderr is not None
        told = b""
        while (found := re.search(rb"mcp on http://([\d.]+):(\d+)/mcp", told)) is None:
            line = process.stderr.readline()
            assert line, told
            told += line
        self.told = told.decode()
        self.port = int(found[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Return what comes of one request as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS_MAX)
        given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request("POST", "/mcp", body, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Serving] = []

    def starts(*arguments: str | Path) -> Serving:
        process = subprocess.Popen(
            [*COMMAND, "mcp", "--http", "127.0.0.1:0", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        made.append(Serving(process))
        return made[-1]

    yield starts
    for each in made:
        each.process.send_signal(signal.SIGINT)
        out, _ = each.process.communicate(timeout=SECONDS_MAX)
        assert (each.process.returncode, out) == (130, b"")


@asynccontextmanager
async def client(serving: Serving, key: str, mode: str = "auto") -> AsyncIterator[Any]:
    with anyio.fail_after(SECONDS_MAX):
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=SECONDS_MAX) as asking:
            transport = streamable_http_client(serving.url, http_client=asking)
            async with Client(transport, mode=mode) as made:
                yield made


@pytest.mark.anyio
@pytest.mark.threat("T-403")
async def test_sessions_belong_to_the_key_that_opened_them(start: Any, keys: Path) -> None:
    serving = start("--policy", POLICY_HERE, "--keys", keys)
    for mode in MODES:
        async with client(serving, ANN, mode) as ann, client(serving, BOB, mode) as bob:
            await ann.call_tool("open_session", {"name": mode})
            await ann.call_tool("run_python", {"code": "x = 'of ann'", "session": mode})
            for name, arguments in (
                ("run_python", {"code": "x"}), ("fork", {}), ("close_session", {}), ("list_files", {}),
                ("read_file", {"path": "/x"}), ("write_file", {"path": "/x", "data": ""}),
            ):  # fmt: skip
                told = problem_of(await bob.call_tool(name, {"session": mode, **arguments}))
                assert told["message"] == f"there is no session '{mode}'"
            assert (await bob.call_tool("list_sessions", {})).structured_content == {"sessions": []}
    # Over another connection they are still there: they are the key's.
    async with client(serving, ANN) as ann:
        ran = await ann.call_tool("run_python", {"code": "x", "session": "legacy"})
        assert ran.structured_content["result"] == "'of ann'"


def hello(version: str = "2025-06-18") -> bytes:
    return json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": version,
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
    ).encode()


@pytest.mark.threat("T-404")
@pytest.mark.threat("T-405")
@pytest.mark.threat("T-400")
def test_what_the_gate_refuses_is_answered_with_a_status_and_reaches_nobody(
    start: Any, keys: Path, tmp_path: Path
) -> None:
    policy = write_policy(tmp_path / "policy.toml", mcp={"message_bytes_max": 50_000})
    serving = start("--policy", policy, "--keys", keys)
    own = {"Authorization": f"Bearer {ANN}"}
    assert serving.post(hello())[0] == 401
    assert serving.post(hello(), Authorization="Bearer " + ANN[:-1])[0] == 401
    assert serving.post(hello(), Host="attacker.example", **own)[0] == 421
    assert serving.post(hello(), Origin="http://attacker.example", **own)[0] == 403
    status, told = serving.post(b" " * 50_001, **own)
    assert (status, b"mcp.message_bytes_max" in told) == (413, True)
    assert serving.post(iter([b" " * 30_000] * 2), **own)[0] == 413  # type: ignore[arg-type]
    assert serving.post(b"[" * 100, **own)[0] == 400
    # Another's session of the protocol is none, whoever knows its name.
    connection = HTTPConnection("127.0.0.1", serving.port, timeout=SECONDS_MAX)
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request("POST", "/mcp", hello(), {**given, **own})
    session = connection.getresponse().headers["Mcp-Session-Id"]
    connection.close()
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    assert serving.post(ping, Mcp_Session_Id=session, **own)[0] == 200
    assert serving.post(ping, Mcp_Session_Id=session, Authorization=f"Bearer {BOB}")[0] == 404


@pytest.mark.anyio
@pytest.mark.parametrize("mode", MODES)
async def test_a_question_is_answered_with_progress_and_one_that_is_cancelled_ends(
    start: Any, keys: Path, tmp_path: Path, mode: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("a")
    news: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        news.append(message)

    with loopback_server() as endpoint:
        endpoint.hold = True
        endpoint.behaviour = lambda seen, write: None
        serving = start(
            "--root", data, "--keys", keys, "--base-url", endpoint.url, "--model", "openai:m",
            "--key-env", "", "--price", "free", *(["--inline"] if POLICY_HERE == "standard" else []),
        )  # fmt: skip
        async with client(serving, ANN, mode) as made:
            question = {"question": "What?", "paths": ["a.txt"]}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.call_tool, "ask_over_files", question)
                await anyio.to_thread.run_sync(endpoint.arrived.wait, SECONDS_MAX)
                tasks.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(endpoint.hung_up.wait, SECONDS_MAX)
            endpoint.hold = False
            endpoint.behaviour = lambda seen, write: write(
                http("200 OK", completion_body("```repl\nFINAL('done')\n```"))
            )
            answered = await made.call_tool("ask_over_files", question, progress_callback=progress)
            assert answered.structured_content["answer"] == "done"
            assert "turn 1/" in str(news[-1])


@pytest.mark.threat("T-404")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--http", "0.0.0.0:0"], b"--keys"),
        (["--http", "nonsense"], b"no HOST:PORT"),
        (["--http", "127.0.0.1:0", "--keys", "missing.txt"], b"missing.txt"),
        (["--http", "127.0.0.1:0", "--keys-env", "NOT_THERE"], b"NOT_THERE"),
        (["--keys-env", "HOME"], b"--http"),
    ],
)
def test_what_cannot_be_served_safely_is_not_served(arguments: list[str], told: bytes) -> None:
    ended = rlm_wasm("mcp", "--policy", POLICY_HERE, *arguments)
    assert ended.returncode == 2
    assert told in ended.stderr


def test_on_loopback_a_key_may_be_left_out_and_a_line_says_so(start: Any) -> None:
    serving = start("--policy", POLICY_HERE)
    assert "no key" in serving.told
    assert serving.post(hello())[0] == 200
    assert serving.post(hello(), Origin="http://attacker.example")[0] == 403
