"""What is no argument is said at once, as a UsageError that names it; no callback is taken and never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import Output, Policy, Runtime, Sandbox
from rlm_wasm.errors import PolicyError, UsageError
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


async def never_awaited(_: object) -> None:
    raise AssertionError


class NeverAwaited:
    async def __call__(self, _: object) -> None:
        raise AssertionError


NO_FUNCTIONS = [5, "f", never_awaited, NeverAwaited()]


def wrong(call: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()


def test_what_makes_a_sandbox_or_a_runtime() -> None:
    wrong(lambda: Sandbox("strict"), "not a str")  # type: ignore[arg-type]
    wrong(lambda: Runtime("strict"), "not a str")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="not a NoneType"):
        Policy.load(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as refused:
        Sandbox(None)  # type: ignore[arg-type]
    assert "Policy.builtin" in str(refused.value.hint)
    wrong(lambda: Sandbox(small_policy(), on_query=5), "on_query is a function, not a int")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", NO_FUNCTIONS, ids=["an int", "a str", "an async function", "an async callable"]
)
def test_who_takes_output_or_events_is_a_function_and_not_async(given: Any, tmp_path: Path) -> None:
    with Sandbox(small_policy()).sync() as sandbox, sandbox.session() as session:
        wrong(lambda: session.exec("x = 1", on_output=given), "on_output is")
        assert session.exec("'x' in globals()").value is False
    with Runtime(small_policy(), model=Script(tmp_path).reply("root", "FINAL(1)").spec).sync() as runtime:
        wrong(lambda: runtime.ask("?", sinks=[given]), "a sink is")
        wrong(lambda: runtime.start("?", sinks=[given]), "a sink is")
        wrong(lambda: runtime.ask("?", sinks=given), "sinks are|a sink is")
        wrong(lambda: runtime.ask("?", outputs=5), "outputs is")  # type: ignore[arg-type]
        assert runtime.ask("?").answer == "1"


def test_a_coroutine_that_a_plain_function_returns_is_not_dropped_in_silence() -> None:
    def on_output(output: Output) -> Any:
        return never_awaited(output)

    with Sandbox(small_policy()).sync() as sandbox, sandbox.session() as session:
        wrong(lambda: session.exec("print(1)", on_output=on_output), "coroutine")
        assert session.exec("1").value == 1


def test_what_a_session_is_given(strict: Policy, tmp_path: Path) -> None:
    box = Sandbox(strict)
    with box.sync() as sandbox, sandbox.session() as session:
        wrong(lambda: sandbox.session(snapshot="x"), "a snapshot is a Snapshot, not a str")  # type: ignore[arg-type]
        session.write_file("/tmp/a", b"0123456789")
        wrong(lambda: session.read_file("/tmp/a", bytes_max="x"), "bytes_max is a number")  # type: ignore[arg-type]
        wrong(lambda: session.read_file("/tmp/a", bytes_max=-1), "bytes_max is a number")
        with pytest.raises(UsageError, match="more than 9 bytes, which is bytes_max") as refused:
            session.read_file("/tmp/a", bytes_max=9)
        assert "files_bytes_max" not in str(refused.value)
        snapshot = session.snapshot()
        for path in ("a\0b", 5, None):
            wrong(lambda path=path: snapshot.save(path, key=b"k" * 32), "a snapshot's path")
            wrong(lambda path=path: sandbox.load_snapshot(path, key=b"k" * 32), "a snapshot's path")
        saved = tmp_path / "s"
        wrong(lambda: snapshot.save(saved, key="k" * 32), "bytes, not a str")  # type: ignore[arg-type]
        snapshot.save(saved, key=b"k" * 32)
        wrong(lambda: sandbox.load_snapshot(saved, key="k" * 32), "bytes, not a str")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="async with") as refused, snapshot.session():  # type: ignore[attr-defined]
            pass
        assert "sandbox.session(snapshot=" in str(refused.value.hint)


@pytest.mark.parametrize("question", [None, 5, b"?"])
def test_what_a_question_is(question: Any, tmp_path: Path) -> None:
    with Runtime(small_policy(), model=Script(tmp_path).reply("root", "FINAL(1)").spec).sync() as runtime:
        wrong(lambda: runtime.ask(question), "a question is a str")
        wrong(lambda: runtime.ask("?", snapshot="x"), "a snapshot is")  # type: ignore[arg-type]
