"""A model of the caller's own in a sandbox: typed queries in, text or typed errors out."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import ModelQuery, OnQuery, Policy, Sandbox
from rlm_wasm.errors import OutputExceeded, ProviderError, QueryTimeout, UsageError
from tests.support.runtime_facts import small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


def policy(isolation: str = "inline", **sections: Any) -> Policy:
    return small_policy(sandbox={"isolation": isolation, "require_lockdown": False}, **sections)


async def ask(on_query: OnQuery, source: str, policy: Policy) -> Any:
    async with Sandbox(policy, on_query=on_query) as box, box.session() as session:
        return (await session.exec(source)).value


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_every_way_to_ask_comes_typed_and_is_answered_in_order(isolation: str) -> None:
    seen: list[ModelQuery] = []

    async def on_query(query: ModelQuery) -> str:
        seen.append(query)
        await anyio.lowlevel.checkpoint()
        return query.prompt.upper()

    source = (
        "[llm_query('a'), llm_query('b', model='m'), llm_query_batched(['c', 'd'], model='n'), "
        "rlm_query('e', budget={'calls': 3}), rlm_query_batched(['f', 'g'])]"
    )
    assert await ask(on_query, source, policy(isolation)) == ["A", "B", ["C", "D"], "E", ["F", "G"]]
    assert [(q.prompt, q.model, q.kind, q.index, q.count) for q in sorted(seen, key=lambda q: q.prompt)] == [
        ("a", None, "llm_query", 0, 1),
        ("b", "m", "llm_query", 0, 1),
        ("c", "n", "llm_query", 0, 2),
        ("d", "n", "llm_query", 1, 2),
        ("e", None, "rlm_query", 0, 1),
        ("f", None, "rlm_query", 0, 2),
        ("g", None, "rlm_query", 1, 2),
    ]
    assert next(dict(q.budget) for q in seen if q.prompt == "e") == {"calls": 3}


def test_a_function_that_is_not_async_waits_on_a_thread_of_its_own() -> None:
    both = threading.Barrier(2, timeout=60)

    def on_query(query: ModelQuery) -> str:
        both.wait()  # the prompts of a batch come side by side
        return query.prompt * 2

    with Sandbox(policy(), on_query=on_query).sync() as box, box.session() as session:
        assert session.exec("llm_query_batched(['x', 'y'])").value == ["xx", "yy"]
    assert Sandbox(policy(), on_query=lambda query: "yes").exec_sync("llm_query('?')").value == "yes"


async def test_a_typed_error_is_that_error_in_the_guest_and_the_others_have_their_answers() -> None:
    async def on_query(query: ModelQuery) -> str:
        if query.prompt == "slow":
            raise QueryTimeout("no answer within 3 ms")
        if query.prompt == "down":
            raise ProviderError("the model is down")
        return "fine"

    source = (
        "r = llm_query_batched(['a', 'slow', 'down'], return_exceptions=True)\n"
        "[r[0], type(r[1]).__name__, str(r[1]), type(r[2]).__name__]"
    )
    assert await ask(on_query, source, policy()) == [
        "fine",
        "QueryTimeout",
        "no answer within 3 ms",
        "ProviderError",
    ]


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_what_is_nothing_for_the_guest_comes_out_of_exec_and_the_session_lives(isolation: str) -> None:
    async def on_query(query: ModelQuery) -> Any:
        if query.prompt == "raise":
            raise KeyError("its own")
        return 7 if query.prompt == "number" else "fine"

    async with Sandbox(policy(isolation), on_query=on_query) as box, box.session() as session:
        with pytest.raises(KeyError, match="its own"):
            await session.exec("x = 1\nllm_query_batched(['raise', 'b'])")
        with pytest.raises(UsageError, match="returned a int"):
            await session.exec("llm_query('number')")
        assert (await session.exec("x")).value == 1


async def test_a_guest_error_ends_the_cell() -> None:
    async def on_query(query: ModelQuery) -> str:
        raise OutputExceeded("enough")

    async with Sandbox(policy(), on_query=on_query) as box, box.session() as session:
        result = await session.exec("llm_query('x')")
        assert isinstance(result.error, OutputExceeded)


@pytest.mark.threat("T-143")
async def test_a_cell_has_so_many_prompts_and_the_next_one_as_many_again() -> None:
    counted = 0

    async def on_query(query: ModelQuery) -> str:
        nonlocal counted
        counted += 1
        return str(query.index)

    few = policy(cell={"requests_max": 16})
    source = (
        "first = llm_query_batched(['a'] * 13)\n"
        "r = llm_query_batched(['a'] * 5, return_exceptions=True)\n[type(each).__name__ for each in r]"
    )
    async with Sandbox(few, on_query=on_query) as box, box.session() as session:
        for _ in range(2):
            assert (await session.exec(source)).value == ["str"] * 3 + ["BudgetExceeded"] * 2
    assert counted == 32


@pytest.mark.threat("T-143")
async def test_an_answer_that_is_too_long_is_the_codes_to_know() -> None:
    async def on_query(query: ModelQuery) -> str:
        return "x" * int(query.prompt)

    source = (
        "r = llm_query_batched(['9', '99999'], return_exceptions=True)\n"
        "[r[0], type(r[1]).__name__, len(llm_query('8'))]"
    )
    limits = {"response_bytes_max": 10_000}
    small = policy(boundary=limits, query={"response_bytes_max": 5_000})
    assert await ask(on_query, source, small) == ["x" * 9, "LimitExceeded", 8]


async def test_an_interrupt_takes_the_question_back() -> None:
    asked, cancelled = anyio.Event(), anyio.Event()

    async def on_query(query: ModelQuery) -> str:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with Sandbox(policy(), on_query=on_query) as box, box.session() as session:

        async def stop() -> None:
            await asked.wait()
            session.interrupt()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            result = await session.exec("llm_query('x')")
        assert result.outcome == "cancelled"
        assert cancelled.is_set()
        assert (await session.exec("1")).value == 1


async def test_final_and_budget_have_an_answer_too() -> None:
    async def on_query(query: ModelQuery) -> str:
        return ""

    source = "try: budget()\nexcept QueryError as error: x = str(error)\nx"
    assert "no budget" in await ask(on_query, source, policy())
    assert await ask(on_query, "FINAL('done')", policy()) is None


async def test_a_cell_pays_for_the_time_in_which_the_host_reads_what_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = itertools.count()
    # Between two looks at this clock lie 400 ms, and reading takes two looks.
    monkeypatch.setattr("rlm_wasm.api.sandbox.monotonic_ns", lambda: next(looks) * 400_000_000)
    limits = policy(cell={"wall_ms_max": 1_000, "sleep_ms_max": 100})
    async with Sandbox(limits, on_query=lambda query: "yes") as box, box.session() as session:
        result = await session.exec("for _ in range(3): llm_query('?')")
        assert (result.outcome, result.error.limit if result.error else None) == ("deadline_exceeded", 1_000)
        assert "to read the cell's requests" in str(result.error)
        # Each cell has as much again.
        assert (await session.exec("[llm_query('?') for _ in range(2)]")).value == ["yes", "yes"]
