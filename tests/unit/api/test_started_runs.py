"""Runs that were started rather than asked: their events, result, cancellation and end."""

from __future__ import annotations

from typing import NoReturn

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event, Gap
from rlm_wasm.providers.base import Query
from tests.support.runtime_facts import Events, Script, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


@pytest.fixture
def script(tmp_path) -> Script:
    return Script(tmp_path)


def endless() -> dict[str, dict[str, int]]:
    return {"cell": {"fuel_max": 10**12}, "budget": {"fuel_max": 10**13}}


async def test_a_reader_sees_the_run_from_its_first_event_to_its_last(script: Script) -> None:
    script.reply("root", "FINAL(llm_query('x'))").reply("sub", "yes")
    kept, read = Events(), Events()
    async with running(small_policy(), script.spec) as runtime:
        run = runtime.start("?", sinks=[kept.append])
        async for event in run.events():
            assert isinstance(event, Event)
            read.append(event)
        result = await run.result()
    assert (result.answer, result.run_id) == ("yes", run.run_id)
    assert read == kept
    read.assert_complete()


@pytest.mark.threat("T-080")
async def test_a_reader_that_never_reads_does_not_hold_up_the_run(script: Script) -> None:
    script.reply("root", "for n in range(15): llm_query(str(n))\nFINAL('done')").reply("sub", "yes")
    policy = small_policy(events={"buffer_events_max": 2})
    async with running(policy, script.spec) as runtime:
        run = runtime.start("?")
        asleep = run.events()
        assert (await run.result()).answer == "done"
        gap, *rest = [item async for item in asleep]
    assert isinstance(gap, Gap)
    assert gap.first_seq == 0
    assert [event.seq for event in rest] == [gap.last_seq + 1, gap.last_seq + 2]
    assert rest[-1].kind == "run_ended"


async def test_cancelling_gives_the_best_partial_answer(script: Script) -> None:
    script.reply("root", "A first thought: 42.", plain=True, turn=1).reply("root", "while True: pass")
    async with running(small_policy(**endless()), script.spec) as runtime:
        run = runtime.start("?")
        answers = 0
        async for event in run.events():
            answers += event.kind == "query_answered"
            if answers == 2:
                run.cancel("seen enough")
                break
        result = await run.result()
    assert (result.partial, result.reason) == (True, "seen enough")
    assert result.answer is not None


async def test_cancelling_before_the_first_step_ends_the_run_with_complete_events(script: Script) -> None:
    script.reply("root", "while True: pass")
    events = Events()
    async with running(small_policy(**endless()), script.spec) as runtime:
        run = runtime.start("?", sinks=[events.append])
        run.cancel("at once")
        run.cancel("again")
        result = await run.result()
    assert (result.answer, result.partial, result.reason) == (None, True, "at once")
    events.assert_complete()


async def test_closing_the_runtime_ends_the_runs_that_were_started(script: Script) -> None:
    script.reply("root", "while True: pass")
    events = Events()
    async with Runtime(small_policy(**endless()), model=script.spec) as runtime:
        run = runtime.start("?", sinks=[events.append])
        async for event in run.events():
            if event.kind == "query_answered":
                break
    assert (await run.result()).reason == "the runtime was closed"
    events.assert_complete()


class NeverAnswers:
    """A model that is asked, and no more."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    async def complete(self, query: Query) -> NoReturn:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


async def test_closing_the_runtime_ends_what_another_task_has_asked(script: Script) -> None:
    model, events, results = NeverAnswers(), Events(), []

    async def ask(runtime: Runtime) -> None:
        results.append(await runtime.ask("?", sinks=[events.append]))
        with pytest.raises(UsageError, match="is not open"):
            await runtime.ask("one more?")

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            async with Runtime(
                small_policy(), model=script.spec, route=lambda name: (model, name)
            ) as runtime:
                tasks.start_soon(ask, runtime)
                await model.asked.wait()
    assert [(result.partial, result.reason) for result in results] == [(True, "the runtime was closed")]
    events.assert_complete()


async def test_tearing_the_runtime_down_ends_the_runs_and_their_events(script: Script) -> None:
    script.reply("root", "while True: pass")
    events = Events()
    runs = []
    with anyio.CancelScope() as scope:
        async with Runtime(small_policy(**endless()), model=script.spec) as runtime:
            runs.append(runtime.start("?", sinks=[events.append]))
            async for event in runs[0].events():
                if event.kind == "query_answered":
                    scope.cancel()
    events.assert_complete()
    with anyio.fail_after(60):
        outcome = None
        try:
            outcome = (await runs[0].result()).reason
        except Exception as error:  # noqa: BLE001 - either is an end
            outcome = type(error).__name__
    assert outcome in ("the runtime was closed", "RuntimeClosed")


async def test_a_result_may_be_awaited_by_several_and_late(script: Script) -> None:
    script.reply("root", "FINAL(context)")
    async with running(small_policy(), script.spec) as runtime:
        run = runtime.start("?", "c")
        results = []
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lambda: keep(results, run))
        assert [result.answer for result in results] == ["c"] * 3
        assert (await run.result()).answer == "c"


async def keep(results: list, run) -> None:
    results.append(await run.result())


async def test_what_keeps_a_run_from_beginning_comes_out_of_its_result(script: Script) -> None:
    script.reply("root", "FINAL(1)")
    async with running(small_policy(sandbox={"context_bytes_max": 4_000}), script.spec) as runtime:
        run = runtime.start("?", "x" * 4_001)
        events = [event async for event in run.events()]
        with pytest.raises(UsageError, match="context_bytes_max"):
            await run.result()
        assert events[-1].kind == "run_ended"
        with pytest.raises(UsageError, match="empty"):
            runtime.start(" ")
    with pytest.raises(UsageError, match="not open"):
        runtime.start("?")
