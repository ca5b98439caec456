"""The answer hook of a caller fails: its exception comes out, and the session with its variables lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from rlm_wasm import Policy, Sandbox
from rlm_wasm.errors import UsageError
from tests.support.sandbox_facts import echo

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


class OfTheApplication(Exception):
    """Nothing of this package's."""


def failing(error: Exception) -> Callable[[bytes], Awaitable[bytes]]:
    async def answer(frame: bytes) -> bytes:
        await anyio.lowlevel.checkpoint()
        raise error

    return answer


async def no_bytes(frame: bytes) -> Any:
    return "text"


async def some(frame: bytes) -> bytes:
    return echo(frame)


def policy(isolation: str) -> Policy:
    return Policy.builtin("standard").replace(sandbox={"isolation": isolation, "require_lockdown": False})


@pytest.mark.parametrize("isolation", ["inline", "session"])
@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (failing(OfTheApplication("its own")), OfTheApplication),
        (failing(TimeoutError("its own")), TimeoutError),
        (failing(KeyError("its own")), KeyError),
        (no_bytes, UsageError),
    ],
    ids=["an exception", "a timeout", "a lookup", "no bytes"],
)
async def test_what_the_hook_raises_comes_out_and_the_session_lives(
    isolation: str, answer: Callable[[bytes], Awaitable[bytes]], raised: type[Exception]
) -> None:
    async with Sandbox(policy(isolation)) as box, await box.session() as session:
        await session.exec("x = [1]; after = False")
        with pytest.raises(raised):
            await session.exec(
                "x.append(2)\ntry: llm_query('?')\nfinally: x.append(3)\nafter = True", answer_frames=answer
            )
        # The guest could unwind, and went no further.
        assert (await session.exec("x, after")).result == "([1, 2, 3], False)"
        assert (await session.exec("llm_query('q')", answer_frames=some)).result == "'Q'"


async def test_a_cell_that_goes_on_asking_gets_no_further_answer_and_the_first_exception_comes_out() -> None:
    asked = 0

    async def answer(frame: bytes) -> bytes:
        nonlocal asked
        asked += 1
        raise OfTheApplication(f"number {asked}")

    stubborn = "for _ in range(9):\n    try: llm_query('?')\n    except BaseException: pass"
    async with Sandbox(policy("inline")) as box, await box.session() as session:
        with pytest.raises(OfTheApplication, match="number 1"):
            await session.exec(stubborn, answer_frames=answer)
        assert asked == 1
        assert (await session.exec("1")).result == "1"


async def test_a_cell_that_does_not_end_for_it_is_ended() -> None:
    endless = "while True:\n    try: llm_query('?')\n    except BaseException: pass"
    async with Sandbox(policy("inline")) as box, await box.session() as session:
        with pytest.raises(OfTheApplication):
            await session.exec(endless, answer_frames=failing(OfTheApplication()))
