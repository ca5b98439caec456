"""Sessions for agents' calls: turns, keys, errors and ends, whichever thread and event loop calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from rlm_wasm.errors import RuntimeClosed, UsageError
from rlm_wasm.integrations.python_sessions import PythonSessions, described
from rlm_wasm.integrations.tool_policy import with_tools
from rlm_wasm.policy.model import Policy
from tests.support.machine_grade import strict_here

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]


def policy() -> Policy:
    return with_tools(strict_here(), ["*"])


@pytest.fixture(scope="module")
def sessions() -> Iterator[PythonSessions]:
    with PythonSessions(policy()) as made:
        yield made


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('a'); 6 * 7", "a\n42"),
        ("x = 1", "No output"),
        ("import sys; print('e', file=sys.stderr)", "e"),
        ("1 +", "SyntaxError"),
        ("import not_there", "ModuleNotFoundError"),
        ("y = 0\n1 / y", "line 2"),
        ("#" * 3_000_000, "Nothing ran: "),
    ],
)
def test_what_code_comes_to_is_one_text(sessions: PythonSessions, code: str, text: str) -> None:
    assert text in sessions.run(code, "texts")


def test_a_key_has_a_session_and_what_fails_loses_nothing_of_it(sessions: PythonSessions) -> None:
    sessions.run("x = 1", "a")
    assert "NameError" in sessions.run("x", "b")
    assert "ZeroDivisionError" in sessions.run("x = 2; 1 / 0", "a")
    assert sessions.run("x", "a") == "2"
    sessions.end("a")
    sessions.end("a")
    assert "NameError" in sessions.run("x", "a")
    sessions.run("x = 3", "a")
    sessions.end_soon("a")
    assert "NameError" in sessions.run("x", "a")


def test_calls_of_a_key_take_turns_from_threads_and_event_loops(sessions: PythonSessions) -> None:
    sessions.run("n = 0", "turns")
    code = "before = n\nfor _ in range(1000): pass\nn = before + 1"

    def call(number: int) -> str:
        if number % 3 == 0:
            return sessions.run(code, "turns")
        return anyio.run(sessions.run_async, code, "turns", backend=("asyncio", "trio")[number % 2])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(8)))
    assert sessions.run("n", "turns") == "8"


def test_tools_of_a_call_raise_in_the_code_and_lose_nothing(sessions: PythonSessions) -> None:
    def price(fruit: str, pieces: int = 1) -> int:
        """Return the price."""
        return {"apple": 3}[fruit] * pieces

    sessions.run("kept = 1", "tools")
    assert sessions.run("price('apple', 2)", "tools", tools=[price]) == "6"
    assert "the tool price failed" in sessions.run("price('plum')", "tools", tools=[price])
    assert "ToolArgumentError" in sessions.run("price('apple', 'x')", "tools", tools=[price])
    assert "NameError" in sessions.run("print(kept); price('apple')", "tools")
    assert sessions.run("kept", "tools") == "1"


def test_code_that_asks_for_its_own_session_through_a_tool_is_refused_at_once(
    sessions: PythonSessions,
) -> None:
    def again(key: str) -> str:
        try:
            return sessions.run("1", key)
        except UsageError as error:
            return str(error)

    async def again_async(key: str) -> str:
        try:
            return await sessions.run_async("1", key)
        except UsageError as error:
            return str(error)

    for name in ("again", "again_async"):
        code = f"{name}('own'), {name}('other')"
        assert sessions.run(code, "own", tools=[again, again_async]) == (
            "('a tool was called by the code of this session, and may not run code in it', '1')"
        )


def test_a_call_that_is_cancelled_ends_its_code_and_the_next_one_is_told_what_is_gone(
    sessions: PythonSessions,
) -> None:
    begun = threading.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: sessions.run_async("x = 1\nhang()", "hung", tools=[hang]))
            await anyio.to_thread.run_sync(begun.wait)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert "This session is a new one" in sessions.run("5", "hung")
    assert sessions.run("5", "hung") == "5"


def test_a_session_that_is_ended_ends_the_calls_that_run_or_wait(sessions: PythonSessions) -> None:
    begun = threading.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(sessions.run, "hang()", "ended", tools=[hang])]
        begun.wait()
        calls.append(pool.submit(sessions.run, "hang()", "ended", tools=[hang]))
        sessions.end("ended")
        sessions.end("ended")  # the second call may have come after the first
        for call in calls[:1]:
            with pytest.raises(RuntimeClosed, match="was ended"):
                call.result()
        while not calls[1].done():
            sessions.end("ended")
    held = sessions.keys()
    assert "ended" not in held


def test_the_key_that_was_not_used_for_longest_starts_anew(guest: object) -> None:
    with PythonSessions(strict_here(), sessions_max=2) as made:
        for key in "abc":
            made.run(f"x = {key!r}", key)
        made.run("x", "b")
        told = made.run("x", "a")
        assert "NameError" in told
        assert "This session is a new one" in told
        assert made.run("x", "b") == "'b'"
    with pytest.raises(UsageError, match="closed"):
        made.run("1")


def test_a_session_that_is_lost_is_told_and_replaced(guest: object) -> None:
    own = strict_here().replace(cell={"fuel_max": 300_000_000}, sandbox={"checkpoint_bytes_max": 0})
    with PythonSessions(own) as made:
        made.run("x = 1")
        told = made.run("while True:\n    try:\n        while True: pass\n    except BaseException: pass")
        assert "had to start anew" in told
        assert "NameError" in made.run("x")


def test_what_cannot_be_is_refused_where_it_is_given(guest: object) -> None:
    def shout(text: str) -> str:
        """Say it louder.

        More words.
        """
        return text.upper()

    with pytest.raises(UsageError, match="the tool shout"):
        PythonSessions(strict_here(), tools=[shout])
    with pytest.raises(UsageError, match="sessions_max"):
        PythonSessions(strict_here(), sessions_max=0)
    made = PythonSessions(policy(), tools=[shout])
    with pytest.raises(UsageError, match="give one of the two"):
        PythonSessions.given_or_own(made, None, [shout])
    assert described(made.tools).endswith("\nshout(text: str) -> str: Say it louder.")
    made.close()
