"""A sandbox that any thread and any event loop may call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.integrations.open_sandbox import OpenSandbox
from rlm_wasm.integrations.tool_policy import with_tools
from tests.support.machine_grade import strict_here

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[OpenSandbox]:
    made = OpenSandbox(with_tools(strict_here(), ["shout"]))
    yield made
    made.close()


async def work(sandbox: OpenSandbox, n: int) -> str | None:
    async with await sandbox.session() as session:
        await session.exec(f"x = {n}")
        return (await session.exec("x * 2")).result


def test_threads_and_event_loops_use_it_at_once(sandbox: OpenSandbox) -> None:
    async def of_a_loop(n: int) -> str | None:
        return await sandbox.wait(work, sandbox, n)

    def of_a_thread(n: int) -> str | None:
        if n % 3 == 0:
            return sandbox.call(work, sandbox, n)
        return anyio.run(of_a_loop, n, backend="asyncio" if n % 3 == 1 else "trio")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(of_a_thread, range(6))) == [str(n * 2) for n in range(6)]


def test_a_tool_that_the_policy_allows_nobody_is_refused_where_it_is_given(sandbox: OpenSandbox) -> None:
    def shout(text: str) -> str:
        return text.upper()

    def whisper(text: str) -> str:
        return text.lower()

    sandbox.check_tools([shout], "")
    with pytest.raises(UsageError, match="the tool whisper"):
        sandbox.check_tools([shout, whisper], "")
    with pytest.raises(UsageError, match="the tool whisper"):
        OpenSandbox(sandbox.policy, [whisper])


def test_one_that_is_closed_says_so(guest: object) -> None:
    made = OpenSandbox(strict_here())
    made.close()
    assert not made.is_open
    with pytest.raises(UsageError, match="closed"):
        made.call(made.session)
