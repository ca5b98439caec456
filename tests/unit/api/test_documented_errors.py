"""What the documented API raises is what its docstrings list; each is provoked here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import rlm_wasm
from rlm_wasm import Policy, Run, Runtime, Sandbox, SandboxSession, Snapshot, errors
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

WORKERS = {"workers_max": 1, "sessions_max": 1, "sessions_per_worker_max": 1, "zygotes_max": 1}
# The context is allowed, and the guest has no room for it.
TINY = {"memory_bytes_max": 1 << 20, "context_bytes_max": 65_536, "whole_context_chars_max": 0}
SMALL = {"memory_bytes_max": 80 << 20, "context_bytes_max": 79 << 20}


def listed(function: Callable[..., Any]) -> set[str]:
    """The errors that a docstring names."""
    names = set(re.findall(r"\w+", inspect.getdoc(function) or ""))
    return {name for name in names if isinstance(getattr(errors, name, None), type)}


def is_listed(error: BaseException, function: Callable[..., Any]) -> bool:
    """Whether a docstring names this error, or a kind of errors that it is of."""
    return bool(listed(function) & {kind.__name__ for kind in type(error).__mro__ if kind is not Exception})


async def raised(made: Awaitable[object]) -> errors.RlmWasmError:
    with pytest.raises(errors.RlmWasmError) as caught:
        await made
    return caught.value


@pytest.mark.parametrize(
    ("error", "sections", "question", "more"),
    [
        ("MemoryExceeded", {"sandbox": SMALL}, "?", {"context": "x" * (79 << 20)}),
        ("UsageError", {}, "?", {"context": "x" * (65 << 20)}),
        ("UsageError", {}, "?", {"context": {"1x": ""}}),
        ("UsageError", {}, " ", {}),
        ("UsageError", {}, "?", {"tenant": "x" * 257}),
        ("PolicyError", {"sandbox": TINY}, "?", {}),
        ("Overloaded", {"sandbox": {"isolation": "session"}, "workers": WORKERS}, "?", {}),
    ],
    ids=["no room", "too large", "no name", "no question", "no tenant", "no memory", "no worker"],
)
async def test_a_run_that_cannot_begin_raises_what_is_listed(
    tmp_path: Path, error: str, sections: dict[str, Any], question: str, more: dict[str, Any]
) -> None:
    model = Script(tmp_path).reply("root", "FINAL(1)").spec
    async with Runtime(small_policy(**sections), model=model) as runtime:
        if error == "Overloaded":
            limits = runtime.policy.session_limits(), runtime.policy.boundary
            holder = await runtime._worker.session(*limits, tenant="other")
        caught = await raised(runtime.ask(question, **more))
        assert type(caught).__name__ == error
        assert is_listed(caught, Runtime.ask)
        if error == "UsageError" and "context" not in more:
            with pytest.raises(errors.UsageError):
                runtime.start(question, **more)
        elif "1x" not in more.get("context", ""):
            run = runtime.start(question, **more)
            assert type(await raised(run.result())) is type(caught)
            assert is_listed(caught, Run.result)
        if error == "Overloaded":
            await holder.aclose()


async def test_a_session_raises_what_is_listed() -> None:
    async with Sandbox(small_policy(sandbox=SMALL)) as box, await box.session() as session:
        assert is_listed(await raised(session.load("x", "x" * (79 << 20))), SandboxSession.load)
        assert is_listed(await raised(session.load("1x", "")), SandboxSession.load)
        assert is_listed(await raised(session.exec("#" * 10_000_000)), SandboxSession.exec)
        image = await session.snapshot()
        await session.aclose()
        assert is_listed(await raised(session.exec("1")), SandboxSession.exec)
        assert is_listed(await raised(session.snapshot()), SandboxSession.snapshot)
        with pytest.raises(errors.UsageError) as no_key:
            image.save("unused")
        assert is_listed(no_key.value, Snapshot.save)
    async with Sandbox(small_policy(sandbox={"isolation": "session"})) as other:
        assert is_listed(await raised(other.session(snapshot=image)), Sandbox.session)
        assert is_listed(await raised(other.session(tenant="x" * 257)), Sandbox.session)
    assert is_listed(await raised(other.session()), Sandbox.session)


def test_a_policy_that_is_none_raises_what_is_listed(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[sandbox]\n")
    for call, argument in (
        (Policy.builtin, "lax"),
        (Policy.open, "lax"),
        (Policy.load, tmp_path / "policy.toml"),
        (Policy.from_mapping, {}),
    ):
        with pytest.raises(errors.PolicyError) as caught:
            call(argument)  # type: ignore[operator]
        assert is_listed(caught.value, call)


def test_every_documented_name_has_a_docstring() -> None:
    # A union or a Callable with a name has a comment in its place, of which the page of the API is made.
    things = [getattr(rlm_wasm, name) for name in rlm_wasm.__all__ if not name.startswith("__")]
    assert all(inspect.getdoc(thing) for thing in things if isinstance(thing, type))
