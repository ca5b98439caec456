"""What was opened on one event loop, used from another one, or from none: refused at once, never a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from rlm_wasm import Policy, Runtime, Sandbox
from rlm_wasm.errors import UsageError
from tests.support.runtime_facts import Script, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

# A bound that only a wait for ever exceeds.
_SECONDS_MAX = 60


async def elsewhere(work: Callable[[], Any]) -> None:
    """Check that `work` is a UsageError on other event loops, and on a thread without any."""

    async def use() -> None:
        with anyio.fail_after(_SECONDS_MAX):
            made = work()
            if isinstance(made, Awaitable):
                await made

    async def refused() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await use()

    await anyio.to_thread.run_sync(asyncio.run, refused())
    await anyio.to_thread.run_sync(trio.run, refused)
    await anyio.to_thread.run_sync(_refused_without_a_loop, work)


def _refused_without_a_loop(work: Callable[[], Any]) -> None:
    def use() -> None:
        made = work()
        if isinstance(made, Awaitable):
            next(iter(made.__await__()))

    with pytest.raises(UsageError, match="another event loop"):
        use()


@pytest.mark.threat("T-132")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_sandbox_its_sessions_and_images_are_their_loops(isolation: str, strict: Policy) -> None:
    unlocked = {"isolation": isolation, "require_lockdown": False, "lockdown": None}
    policy = strict.replace(sandbox=unlocked)
    async with Sandbox(policy) as box, await box.session() as session:
        image = await session.snapshot()
        for work in (
            box.session,
            image.session,
            partial(session.exec, "1"),
            partial(session.load, "context", "x"),
            session.snapshot,
            session.aclose,
            session.interrupt,
            partial(box.__aexit__, None, None, None),
        ):
            await elsewhere(work)
        # None of it did anything.
        with pytest.raises(UsageError, match="open already"):
            await box.__aenter__()
        assert (await session.exec("6 * 7")).result == "42"
        async with await image.session() as forked:
            assert (await forked.exec("1")).result == "1"


@pytest.mark.threat("T-132")
async def test_a_runtime_its_runs_and_readers_are_their_loops(tmp_path) -> None:
    script = Script(tmp_path).reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    async with running(small_policy(), script.spec) as runtime:
        await elsewhere(partial(runtime.ask, "?"))
        await elsewhere(partial(runtime.start, "?"))
        await elsewhere(runtime.cancel)
        run = runtime.start("?")
        reader = run.events()
        for work in (
            run.result,
            run.events,
            run.cancel,
            reader.__anext__,
            partial(runtime.__aexit__, None, None, None),
        ):
            await elsewhere(work)
        assert (await run.result()).answer == "yes"
        assert [event.kind async for event in reader][-1] == "run_ended"


async def test_a_cell_that_runs_is_interrupted_from_another_thread_through_its_loop(strict: Policy) -> None:
    async with Sandbox(strict) as box, await box.session() as session:
        async with anyio.create_task_group() as tasks:

            def from_outside() -> None:
                anyio.from_thread.run_sync(session.interrupt)

            async def answer(frame: bytes) -> bytes:
                tasks.start_soon(anyio.to_thread.run_sync, from_outside)
                await anyio.sleep_forever()
                raise AssertionError

            assert (await session.exec("llm_query('x')", answer_frames=answer)).outcome == "cancelled"
        assert (await session.exec("1")).result == "1"


async def test_the_calls_that_are_not_async_are_refused_where_a_loop_runs(tmp_path, strict: Policy) -> None:
    with pytest.raises(UsageError, match="exec_sync was called where an event loop runs"):
        Sandbox(strict).exec_sync("1")
    runtime = Runtime(small_policy(), model=Script(tmp_path).spec)
    with pytest.raises(UsageError, match="ask_sync was called where an event loop runs"):
        runtime.ask_sync("?")


def test_a_sandbox_may_be_opened_on_one_loop_after_the_other() -> None:
    async def use(box: Sandbox) -> str | None:
        async with box, await box.session() as session:
            return (await session.exec("6 * 7")).result

    box = Sandbox(Policy.builtin("standard"))
    assert [asyncio.run(use(box)), trio.run(use, box), asyncio.run(use(box))] == ["42"] * 3
