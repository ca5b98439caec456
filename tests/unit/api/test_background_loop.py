"""The event loop on a thread of its own, for callers that are async themselves."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.errors import RuntimeClosed, UsageError

pytestmark = pytest.mark.anyio
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="none")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    made = BackgroundLoop("the loop", instead=None)
    made.open(nothing())
    yield made
    made.close(None, None, None)


async def test_a_caller_on_any_loop_gets_what_the_call_returns_or_raises(loop: BackgroundLoop) -> None:
    async def add(one: int, other: int) -> tuple[int, str, bool]:
        return one + other, COLOUR.get(), threading.current_thread() is threading.main_thread()

    async def fail() -> None:
        raise ValueError("told")

    COLOUR.set("red")
    assert await loop.wait(add, 1, other=2) == (3, "red", False)
    with pytest.raises(ValueError, match="told"):
        await loop.wait(fail)


async def test_the_callers_loop_goes_on_and_calls_are_side_by_side(loop: BackgroundLoop) -> None:
    here = anyio.Event()
    met: list[str] = []

    async def meet(name: str, barrier: list[anyio.Event]) -> None:
        if not barrier:
            barrier.append(anyio.Event())
            await barrier[0].wait()
        else:
            barrier[0].set()
        met.append(name)

    barrier: list[anyio.Event] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loop.wait, meet, "one", barrier)
        tasks.start_soon(loop.wait, meet, "other", barrier)
        here.set()
    assert sorted(met) == ["one", "other"]
    assert here.is_set()


async def test_a_caller_that_is_cancelled_cancels_the_call_and_waits_for_its_end(
    loop: BackgroundLoop,
) -> None:
    ended: list[str] = []
    begun = threading.Event()

    async def hang() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            ended.append("cleaned up")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loop.wait, hang)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
    assert ended == ["cleaned up"]


async def test_a_call_that_another_thread_closes_is_told_so(loop: BackgroundLoop) -> None:
    begun = threading.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def close() -> None:
        await anyio.to_thread.run_sync(begun.wait)
        await anyio.to_thread.run_sync(loop.close, ValueError, ValueError(), None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with pytest.raises(RuntimeClosed, match="was closed before"):
            await loop.wait(hang)
    with pytest.raises(UsageError, match="is not open"):
        await loop.wait(hang)


async def test_a_call_from_its_own_loop_is_refused_and_not_waited_for(loop: BackgroundLoop) -> None:
    async def inner() -> int:
        return 3

    async def outer() -> int:
        with pytest.raises(UsageError, match="from its own event loop"):
            loop.call(inner)
        return await loop.wait(inner)

    assert await loop.wait(outer) == 3
