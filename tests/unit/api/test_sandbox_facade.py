"""`Sandbox` and the synchronous calls: what the README shows."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_wasm import Policy, Runtime, Sandbox
from rlm_wasm.engine.session_files import SessionFiles
from rlm_wasm.errors import UsageError
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


def test_exec_sync_runs_a_cell_and_can_be_called_again(strict: Policy) -> None:
    box = Sandbox(strict)
    assert box.exec_sync("6 * 7").result == "42"
    assert box.exec_sync("len(context)", context="abc").result == "3"


def test_exec_sync_of_one_sandbox_may_be_called_from_many_threads(strict: Policy) -> None:
    box = Sandbox(strict)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda n: box.exec_sync(f"print({n}); {n}"), range(12)))
    assert [(r.outcome, r.stdout, r.result) for r in results] == [
        ("completed", f"{n}\n", str(n)) for n in range(12)
    ]


def test_without_a_host_llm_query_is_a_query_error(strict: Policy) -> None:
    result = Sandbox(strict).exec_sync("llm_query('x')")
    assert result.outcome == "guest_exception"
    assert "no model to ask" in str(result.error)


def test_ask_sync_answers_and_can_be_called_again(tmp_path: Path) -> None:
    script = Script(tmp_path).reply("root", "FINAL(len(context))")
    runtime = Runtime(small_policy(), model=script.spec)
    assert runtime.ask_sync("?", "abc").answer == "3"
    assert runtime.ask_sync("?", "abcd").answer == "4"


def test_ask_sync_takes_all_that_ask_takes(tmp_path: Path) -> None:
    assert inspect.signature(Runtime.ask_sync).parameters == inspect.signature(Runtime.ask).parameters
    script = Script(tmp_path).reply(
        "root", "open('/out/x', 'w').write('o')\nFINAL(open('/inputs/n.txt').read())"
    )
    turns: list[object] = []
    left: list[bytes] = []

    async def outputs(files: SessionFiles) -> None:
        left.append(await files.read("/out/x"))

    found = Runtime(small_policy(), model=script.spec).ask_sync(
        "?", "abc", file_names={"context": "n.txt"}, watch=turns.append, outputs=outputs
    )
    assert (found.answer, left) == ("abc", [b"o"])
    assert turns


@pytest.mark.anyio
async def test_sessions_of_a_sandbox_are_apart(strict: Policy) -> None:
    async with Sandbox(strict) as box, await box.session() as one, await box.session() as two:
        await one.load("context", b"bytes")
        await one.exec("x = 1")
        assert (await one.exec("x, context")).result == "(1, b'bytes')"
        assert (await two.exec("'x' in globals(), context")).result == "(False, '')"


@pytest.mark.anyio
async def test_a_bad_name_is_a_usage_error(strict: Policy) -> None:
    async with Sandbox(strict) as box, await box.session() as session:
        for name in ("a b", "None", "class", "ﬁle", "llm_query", "_"):
            with pytest.raises(UsageError):
                await session.load(name, "x")
        assert (await session.exec("1")).result == "1"


@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_a_runtime_and_a_sandbox_may_be_opened_again(isolation: str, tmp_path: Path) -> None:
    policy = small_policy(sandbox={"isolation": isolation, "require_lockdown": False})
    runtime = Runtime(policy, model=Script(tmp_path).reply("root", "FINAL(len(context))").spec)
    assert [runtime.ask_sync("?", "a" * n).answer for n in (1, 2)] == ["1", "2"]
    box = Sandbox(policy)
    for _ in range(2):
        with box.sync() as sandbox:
            assert sandbox.exec("6 * 7").result == "42"


@pytest.mark.anyio
async def test_a_session_is_awaited_or_entered_once(strict: Policy) -> None:
    async with Sandbox(strict) as box:
        async with box.session() as session:
            assert (await session.exec("6 * 7")).result == "42"
        with pytest.raises(UsageError, match="closed"):
            await session.exec("1")
        opening = box.session()
        async with await opening as session:
            image = await session.snapshot()
            with pytest.raises(UsageError, match="opened already"):
                await opening
            with pytest.raises(UsageError, match="opened already"):
                async with opening:
                    raise AssertionError
            assert (await session.exec("1")).result == "1"
        async with image.session() as fork:
            assert (await fork.exec("2")).result == "2"
        assert box.metrics().total.sessions == 3
