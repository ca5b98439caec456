"""Sessions of MCP clients: each client's own, so many, and for so long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.errors import Overloaded, UsageError
from rlm_wasm.mcp.client_sessions import ClientSessions
from rlm_wasm.policy.model import Policy

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def sessions(clock: Clock | None = None, **limits: int) -> AsyncIterator[ClientSessions]:
    policy = Policy.builtin("standard")
    table = policy.to_mapping()["mcp"]
    policy = policy.replace(mcp={**table, **limits})
    async with Sandbox(policy) as sandbox:
        made = ClientSessions(sandbox, policy.mcp_limits(), clock or Clock())
        try:
            yield made
        finally:
            await made.aclose()


async def value(made: ClientSessions, client: str, name: str | None, source: str) -> str | None:
    async with made.using(client, name) as session:
        return (await session.exec(source)).result


async def test_a_session_lasts_and_a_fresh_one_does_not() -> None:
    async with sessions() as made:
        assert await made.open("ann") == "s1"
        await value(made, "ann", "s1", "x = 7")
        await value(made, "ann", None, "x = 8")
        assert await value(made, "ann", "s1", "x") == "7"
        assert made.names("ann") == ("s1",)


@pytest.mark.threat("T-403")
async def test_another_clients_session_is_not_there_whatever_is_asked_of_it() -> None:
    async with sessions() as made:
        await made.open("ann", "mine")
        for name in ("mine", "none"):
            with pytest.raises(UsageError) as caught:
                await value(made, "bob", name, "1")
            assert caught.value.message == f"there is no session {name!r}"
            with pytest.raises(UsageError):
                await made.close("bob", name)
            with pytest.raises(UsageError):
                await made.fork("bob", name, [None])
        assert made.names("bob") == ()
        assert await made.open("bob", "mine") == "mine"
        await value(made, "bob", "mine", "x = 'bob'")
        assert await value(made, "ann", "mine", "'x' in globals()") == "False"


@pytest.mark.threat("T-403")
async def test_a_client_has_so_many_sessions_and_takes_none_of_anothers() -> None:
    async with sessions(sessions_max=2) as made:
        await made.open("ann")
        await made.open("ann")
        for name in (None, "third"):
            with pytest.raises(Overloaded, match=r"mcp\.sessions_max is 2"):
                await made.open("ann", name)
        with pytest.raises(Overloaded):
            await value(made, "ann", None, "1")
        await made.open("bob")
        await made.close("ann", "s1")
        assert await value(made, "ann", None, "1") == "1"


async def test_a_fork_has_all_that_there_was_and_all_are_made_or_none() -> None:
    async with sessions(sessions_max=4) as made:
        await made.open("ann", "first")
        await value(made, "ann", "first", "x = [1]")
        assert await made.fork("ann", "first", ["left", None]) == ["left", "s1"]
        await value(made, "ann", "left", "x.append(2)")
        assert await value(made, "ann", "s1", "x") == "[1]"
        with pytest.raises(Overloaded):
            await made.fork("ann", "first", [None, None])
        with pytest.raises(UsageError, match="already"):
            await made.fork("ann", "first", ["left"])
        assert made.names("ann") == ("first", "left", "s1")


async def test_what_was_not_used_for_so_long_is_closed_and_what_is_in_use_is_not() -> None:
    clock = Clock()
    async with sessions(clock, session_idle_ms_max=10_000) as made:
        await made.open("ann", "old")
        clock.now = 6
        await made.open("ann", "new")
        assert await made.close_idle() == 4
        async with made.using("ann", "old"):
            clock.now = 11
            assert await made.close_idle() == 5
        assert made.names("ann") == ("old", "new")
        clock.now = 17
        assert await made.close_idle() == 4
        assert made.names("ann") == ("old",)


async def test_calls_of_one_session_take_turns_and_one_that_comes_after_its_end_is_told() -> None:
    async with sessions() as made:
        await made.open("ann", "s")
        order: list[str] = []

        async def call(source: str) -> None:
            order.append(str(await value(made, "ann", "s", source)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "sum(range(100_000))")
            tasks.start_soon(call, "2")
        # Whichever began: neither was told that the session is busy.
        assert sorted(order) == ["2", "4999950000"]
        async with made.using("ann", "s"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.close, "ann", "s")
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        assert made.names("ann") == ("s",)


@pytest.mark.parametrize("name", ["", "a b", "one call's 1", "../x", "x" * 65, "a\nb"])
async def test_a_name_that_is_none_is_told(name: str) -> None:
    async with sessions() as made:
        with pytest.raises(UsageError, match="no name of a session"):
            await made.open("ann", name)
        assert made.names("ann") == ()
