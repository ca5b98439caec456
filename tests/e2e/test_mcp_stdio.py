"""`rlm-wasm mcp` over pipes, with the client of the library that speaks the protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.command_line import COMMAND, ROOT, SECONDS_MAX, environment
from tests.support.machine_grade import POLICY_HERE
from tests.support.mcp_client import MISSING, needs_mcp, problem_of
from tests.support.policy_file import write_policy
from tests.support.provider_loopback import completion_body, http, loopback_server

if not MISSING:
    from mcp import Client, MCPError, StdioServerParameters

pytestmark = [pytest.mark.guest, needs_mcp, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def client(*arguments: str | Path) -> AsyncIterator[Any]:
    with anyio.fail_after(SECONDS_MAX):
        command, *rest = COMMAND
        server = StdioServerParameters(
            command=command, args=[*rest, "mcp", *map(str, arguments)], env=environment()
        )
        async with Client(server) as made:
            yield made


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(block: str) -> str:
        path = tmp_path / "model.toml"
        path.write_text(f"[[reply]]\nrole = 'root'\nturn = 1\ntext = '''\n```repl\n{block}\n```'''\n")
        return f"script:{path}"

    return write


@pytest.mark.anyio
async def test_sessions_files_and_forks_through_a_real_client() -> None:
    async with client("--policy", POLICY_HERE) as made:
        listed = {tool.name: tool for tool in (await made.list_tools()).tools}
        assert "ask_over_files" not in listed
        assert listed["run_python"].input_schema["required"] == ["code"]
        assert listed["run_python"].output_schema is not None
        ran = await made.call_tool("run_python", {"code": "print('out'); 6 * 7"})
        assert (ran.structured_content["stdout"], ran.structured_content["result"]) == ("out\n", "42")
        assert json.loads(ran.content[0].text) == ran.structured_content
        assert not ran.is_error
        opened = await made.call_tool("open_session", {"name": "one"})
        assert opened.structured_content == {"sessions": ["one"]}
        await made.call_tool("write_file", {"session": "one", "path": "/inputs/x.bin", "data": "AAH/",
                                            "encoding": "base64"})  # fmt: skip
        code = "data = open('/inputs/x.bin', 'rb').read(); open('/out/y.txt', 'w').write('é'); list(data)"
        ran = await made.call_tool("run_python", {"code": code, "session": "one"})
        assert ran.structured_content["result"] == "[0, 1, 255]"
        read = await made.call_tool("read_file", {"session": "one", "path": "/out/y.txt"})
        assert read.structured_content["data"] == "é"
        found = await made.call_tool("list_files", {"session": "one"})
        assert [file["path"] for file in found.structured_content["files"]] == ["/out", "/out/y.txt"]
        forked = await made.call_tool("fork", {"session": "one", "count": 2})
        first, second = forked.structured_content["sessions"]
        await made.call_tool("run_python", {"code": "data = b''", "session": first})
        ran = await made.call_tool("run_python", {"code": "len(data)", "session": second})
        assert ran.structured_content["result"] == "3"
        left = await made.call_tool("close_session", {"session": "one"})
        assert left.structured_content == {"sessions": [first, second]}


@pytest.mark.anyio
@pytest.mark.threat("T-400")
async def test_what_fails_is_told_typed_and_the_server_goes_on(tmp_path: Path) -> None:
    policy = write_policy(
        tmp_path / "policy.toml",
        mcp={"sessions_max": 2, "result_bytes_max": 4_000, "message_bytes_max": 50_000},
        cell={"fuel_max": 400_000_000},
    )  # fmt: skip
    async with client("--policy", policy) as made:
        ran = await made.call_tool("run_python", {"code": "1/0"})
        assert ran.is_error
        assert ran.structured_content["outcome"] == "guest_exception"
        assert ran.structured_content["problem"]["type"] == "ZeroDivisionError"
        ran = await made.call_tool("run_python", {"code": "while True: pass"})
        assert ran.structured_content["problem"]["key"] == "cell.fuel_max"
        assert problem_of(await made.call_tool("run_python", {"code": 7}))["type"] == "ToolArgumentError"
        assert "extra" in problem_of(await made.call_tool("run_python", {"code": "1", "extra": 1}))["message"]
        assert (
            "result_bytes_max"
            in problem_of(await made.call_tool("run_python", {"code": "print('x' * 5_000)"}))["message"]
        )
        for _ in range(2):
            assert not (await made.call_tool("open_session", {})).is_error
        refused = problem_of(await made.call_tool("open_session", {}))
        assert (refused["type"], "mcp.sessions_max" in refused["message"]) == ("Overloaded", True)
        # Larger than a message may be: its one answer names the key, and the sessions are still there.
        with pytest.raises(MCPError, match=r"mcp\.message_bytes_max"):
            await made.call_tool("run_python", {"code": "#" * 5_000_000})
        with pytest.raises(MCPError, match="nested deeper"):
            await made.call_tool("run_python", {"code": json.loads("[" * 90 + "]" * 90)})
        with pytest.raises(MCPError, match="there is no tool"):
            await made.call_tool("no_such_tool", {})
        ran = await made.call_tool("run_python", {"code": "'alive'", "session": "s1"})
        assert ran.structured_content["result"] == "'alive'"


@pytest.mark.anyio
async def test_a_question_about_files_is_answered_and_its_progress_is_told(
    tmp_path: Path, script: Callable[[str], str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("needle 7\n")
    (data / "b.txt").write_text("nothing\n")
    block = "found = [t for t in context.values() if 'needle' in t]\nFINAL(found[0].split()[1])"
    news: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        news.append((done, message))

    async with client("--policy", POLICY_HERE, "--model", script(block), "--root", data) as made:
        question = {"question": "Where is the needle?", "paths": [str(data)]}
        answered = await made.call_tool("ask_over_files", question, progress_callback=progress)
        assert answered.structured_content["answer"] == "7", answered
        assert answered.structured_content["spent"]["calls"] == 1
        assert not answered.structured_content["partial"]
        numbers = [number for number, _ in news]
        assert numbers == sorted(set(numbers)) != []
        assert "turn 1/" in str(news[-1][1])


@pytest.mark.anyio
@pytest.mark.threat("T-401")
async def test_nothing_outside_the_roots_is_read(tmp_path: Path, script: Callable[[str], str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "secret.txt").write_text("the secret")
    (data / "out.txt").symlink_to(tmp_path / "secret.txt")
    (data / "folder").symlink_to(tmp_path)
    (data / "a.txt").write_text("a")
    async with client(
        "--policy", POLICY_HERE, "--model", script("FINAL(str(context))"), "--root", data
    ) as made:
        for path in (
            "/etc/passwd", "../secret.txt", str(tmp_path / "secret.txt"),
            "out.txt", "folder/secret.txt", "-", ".env",
        ):  # fmt: skip
            refused = await made.call_tool("ask_over_files", {"question": "What?", "paths": [path]})
            assert refused.is_error, path
            assert "the secret" not in refused.content[0].text
        answered = await made.call_tool("ask_over_files", {"question": "What?", "paths": ["."]})
        assert answered.structured_content["answer"] == str({"a.txt": "a"})
        assert "a link" in answered.structured_content["left_out"][0]


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_ends_its_run_and_the_next_one_is_answered(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with loopback_server() as endpoint:
        endpoint.hold = True
        endpoint.behaviour = lambda seen, write: None
        async with client(
            "--root", tmp_path, "--base-url", endpoint.url, "--model", "openai:m",
            "--key-env", "", "--price", "free",
            *(["--inline"] if POLICY_HERE == "standard" else []),
        ) as made:  # fmt: skip
            question = {"question": "What?", "paths": ["a.txt"]}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.call_tool, "ask_over_files", question)
                await anyio.to_thread.run_sync(endpoint.arrived.wait, SECONDS_MAX)
                tasks.cancel_scope.cancel()
            # Its query is under way no more: whoever serves the model sees that nobody waits.
            assert await anyio.to_thread.run_sync(endpoint.hung_up.wait, SECONDS_MAX)
            endpoint.hold = False
            endpoint.behaviour = lambda seen, write: write(
                http("200 OK", completion_body("```repl\nFINAL('done')\n```"))
            )
            answered = await made.call_tool("ask_over_files", question)
            assert answered.structured_content["answer"] == "done"


@pytest.mark.anyio
async def test_a_cell_that_is_cancelled_is_undone_and_its_session_lives() -> None:
    async with client("--policy", POLICY_HERE) as made:
        await made.call_tool("open_session", {"name": "s"})
        await made.call_tool("run_python", {"code": "x = 1", "session": "s"})
        started = anyio.Event()

        async def run() -> None:
            started.set()
            await made.call_tool("run_python", {"code": "x = 2\nwhile True: pass", "session": "s"})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            with anyio.move_on_after(0.5):
                await anyio.sleep_forever()
            tasks.cancel_scope.cancel()
        ran = await made.call_tool("run_python", {"code": "x", "session": "s"})
        assert ran.structured_content["result"] == "1"


def messages(*calls: dict[str, Any]) -> bytes:
    """Return the lines of a client that shakes hands and makes these calls."""
    hello = {
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }  # fmt: skip
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    return b"".join(json.dumps(each).encode() + b"\n" for each in (hello, ready, *calls))


def call(number: int, name: str, **arguments: object) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def start_server(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "mcp", *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip


@pytest.mark.threat("T-402")
def test_stdout_has_the_protocol_alone_and_the_end_of_the_client_is_the_servers() -> None:
    with start_server("--policy", POLICY_HERE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(messages(call(1, "run_python", code="print('guest'); 1"), call(2, "open_session")))
        server.stdin.flush()
        answers = {}
        while len(answers) < 3:
            answer = json.loads(server.stdout.readline())
            assert answer["jsonrpc"] == "2.0"
            answers[answer["id"]] = answer["result"]
        assert answers[1]["structuredContent"]["stdout"] == "guest\n"
        out, err = server.communicate(timeout=SECONDS_MAX)
        assert (server.returncode, out) == (0, b"")
        told = err.decode()
        assert "mcp over stdio · policy" in told
        assert "Traceback" not in told


@pytest.mark.threat("T-402")
def test_a_client_that_asks_and_never_reads_holds_nobody_up_when_it_goes() -> None:
    with start_server("--policy", POLICY_HERE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        hello, *rest = messages(
            *({"jsonrpc": "2.0", "id": n, "method": "tools/list"} for n in range(1, 5_000))
        ).splitlines(keepends=True)
        server.stdin.write(hello)
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["id"] == 0
        os.set_blocking(server.stdin.fileno(), False)
        left, written = b"".join(rest), 1
        while written:
            # Until nothing more is taken: answers to what was asked wait, so it is not read any further.
            try:
                written = os.write(server.stdin.fileno(), left[:65_536])
                left = left[written:]
            except BlockingIOError:
                if server.poll() is None and not _drained(server.stdin.fileno()):
                    break
        assert left, "all was read, and its answers pile up"
        server.stdin.close()
        assert server.wait(timeout=SECONDS_MAX) == 0
        server.stdout.close()


def _drained(descriptor: int) -> bool:
    """Wait for a pipe to be read from; False: it is not."""
    import select

    return bool(select.select([], [descriptor], [], 5)[1])


def test_without_the_package_a_line_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'mcp' else found(name, *a)\n"
        "from rlm_wasm.cli.main import invoke; sys.exit(invoke(['mcp']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=SECONDS_MAX, env=environment(), cwd=ROOT
    )
    assert ended.returncode == 2
    assert b"pip install 'rlm-wasm[mcp]'" in ended.stderr
