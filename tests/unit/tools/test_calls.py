"""Calls of tools, without a guest: the places that they hold, whoever else wants one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.errors import ToolError
from rlm_wasm.policy.model import Policy
from rlm_wasm.scheduler.request import Completed, Failed, Response
from rlm_wasm.tools.calls import ToolCalls
from rlm_wasm.tools.granted import GrantedTools, ToolGrants
from rlm_wasm.tools.tool import Tool

pytestmark = pytest.mark.anyio


def granted(*tools: Tool[..., Any], parallel_max: int = 16) -> GrantedTools:
    policy = Policy.builtin("strict").replace(tools={"allow": ["*"], "parallel_max": parallel_max})
    return ToolGrants(policy.tools, policy.boundary).of(tools, "")


@pytest.mark.threat("T-343")
async def test_who_waits_for_a_busy_tool_keeps_no_other_tool_from_being_called() -> None:
    begun, ended = anyio.Event(), anyio.Event()
    made: list[Response] = []

    async def held() -> None:
        begun.set()
        await ended.wait()

    async def free() -> str:
        return "free"

    busy = Tool(held, parallel_max=1)
    tools, calls = granted(busy, Tool(free, timeout_ms=1_000), parallel_max=2), ToolCalls()

    async def call() -> None:
        made.append(await calls.call(tools, "held", "{}", 1_000))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await begun.wait()
        while not busy.places.waiting:
            await anyio.lowlevel.checkpoint()
        assert await calls.call(tools, "free", "{}", 1_000) == Completed('"free"', None)
        ended.set()
    assert made == [Completed("null", None)] * 3


async def test_what_a_function_that_is_not_async_gives_to_be_awaited_has_a_place_too() -> None:
    now, most = 0, 0

    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        now -= 1

    def begin() -> Awaitable[None]:
        return count()

    made = Tool(begin, parallel_max=1)
    tools, calls = granted(made), ToolCalls()
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(calls.call, tools, "begin", "{}", 1_000)
    assert most == 1
    assert made.places.taken == 0


async def test_a_guest_is_told_the_message_of_an_error_and_no_kind_of_its_authors() -> None:
    class NotThere(ToolError):
        pass

    def look() -> None:
        raise NotThere("there is none")

    answer = await ToolCalls().call(granted(Tool(look)), "look", "{}", 1_000)
    assert isinstance(answer, Failed)
    assert (type(answer.error), str(answer.error)) == (ToolError, "there is none")


async def test_what_is_answered_is_what_can_be_sent() -> None:
    def half() -> str:
        return "a\ud800é"

    assert await ToolCalls().call(granted(Tool(half)), "half", "{}", 6) == Completed('"a?é"', None)
    assert isinstance(await ToolCalls().call(granted(Tool(half)), "half", "{}", 5), Failed)
