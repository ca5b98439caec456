"""Calls of a session that are cancelled: again, before they begin, or by what a caller waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from rlm_wasm import ModelQuery, Policy, Sandbox, SandboxSession
from rlm_wasm.errors import GuestException, GuestTrap, WorkerLost
from tests.support.runtime_facts import small_policy

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

CALLS: dict[str, Callable[[SandboxSession], Coroutine[Any, Any, object]]] = {
    "exec": lambda session: session.exec("while True: pass"),
    "get": lambda session: session.get("x"),
    "snapshot": lambda session: session.snapshot(),
}


def policy(isolation: str) -> Policy:
    return small_policy(sandbox={"isolation": isolation, "require_lockdown": False})


@pytest.mark.parametrize("isolation", ["inline", "session"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_call_that_is_cancelled_again_leaves_the_session_as_after_once(
    isolation: str, call: Callable[[SandboxSession], Coroutine[Any, Any, object]], turns: int
) -> None:
    async def main() -> None:
        async with Sandbox(policy(isolation)) as box, box.session() as session:
            await session.exec("x = 1")
            task = asyncio.ensure_future(call(session))
            for _ in range(10):
                await asyncio.sleep(0)
            for _ in range(4):
                task.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
            with suppress(asyncio.CancelledError):  # a snapshot may be done already
                await task
            assert (await session.exec("x")).value == 1
            assert (await session.exec("2")).value == 2

    asyncio.run(main())


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_an_input_whose_loading_is_cancelled_before_it_begins_costs_nothing(isolation: str) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.exec("x = 1")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await session.load("y", "text" * 100_000)
        assert (await session.exec("x")).value == 1


def test_what_on_query_waits_for_may_be_cancelled_and_the_guest_is_told() -> None:
    async def on_query(query: ModelQuery) -> str:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return str(await future)

    async def main() -> None:
        async with Sandbox(policy("inline"), on_query=on_query) as box, box.session() as session:
            source = "try: llm_query('?')\nexcept QueryError as e: told = type(e).__name__\ntold"
            assert (await session.exec(source)).value == "QueryCancelled"

    asyncio.run(main())


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["inline", "session"])
@pytest.mark.parametrize(
    "error",
    [GuestException("ValueError", "of another cell"), GuestTrap("of another"), WorkerLost("of another")],
    ids=lambda error: type(error).__name__,
)
async def test_the_end_of_another_cell_is_the_callers_exception(isolation: str, error: Exception) -> None:
    """As `raise_for_outcome` in an `on_query` raises it: this cell is interrupted, and its session lives."""

    async def on_query(query: ModelQuery) -> str:
        raise error

    async with Sandbox(policy(isolation), on_query=on_query) as box, box.session() as session:
        await session.exec("x = 1")
        with pytest.raises(type(error)):
            await session.exec("llm_query('?')")
        assert (await session.exec("x")).value == 1
