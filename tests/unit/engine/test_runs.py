"""Whole runs with real parts: a scripted model, the guest, the scheduler; on asyncio and on trio."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.world import World
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.conversation.loop import CellFinished, LoopEffect, LoopInput, RlmLoop
from rlm_wasm.errors import Overloaded, RunLimitReached, UsageError, WorkerLost
from rlm_wasm.events import Event
from rlm_wasm.host.worker import WorkerSession
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.outcomes import Outcome, SessionState, StopReason
from rlm_wasm.providers.base import Completion, Query
from tests.support.runtime_facts import Events, Script, observant_model, running, small_policy, tireless_model

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


async def test_an_answer_in_the_dict_finishes_the_run(script: Script) -> None:
    script.reply("root", "answer['content'] = len(context)\nanswer['ready'] = True")
    events = Events()
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("How long?", "x" * 1000, sinks=[events.append])
    assert (result.answer, result.partial, result.reason) == ("1000", False, "finished")
    assert result.spent["iterations"] == 1
    assert result.spent["fuel"] > 0
    events.assert_complete()


async def test_final_finishes_and_later_blocks_do_not_run(script: Script) -> None:
    script.reply("root", "FINAL('first')\n```\n\n```repl\nFINAL('second')")
    async with running(small_policy(), script.spec) as runtime:
        assert (await runtime.ask("?")).answer == "first"


async def test_final_var_in_text_gives_the_variables_value(script: Script) -> None:
    script.reply("root", "found = [1, 2]", turn=1).reply("root", "FINAL_VAR(found)", plain=True)
    async with running(small_policy(), script.spec) as runtime:
        assert (await runtime.ask("?")).answer == "[1, 2]"


async def test_the_model_sees_its_error_and_recovers(tmp_path: Path) -> None:
    model = observant_model(
        tmp_path, "kept = 5\nunknown + 1", r"NameError: name '(\w+)' is not defined", r"FINAL(f'{kept} \1')"
    )
    async with running(small_policy(), model) as runtime:
        assert (await runtime.ask("?")).answer == "5 unknown"


async def test_broken_code_gets_an_observation_that_helps(tmp_path: Path) -> None:
    model = observant_model(
        tmp_path, "x = (", "'\\(' was never closed[\\s\\S]*not valid Python", "FINAL('told')"
    )
    async with running(small_policy(), model) as runtime:
        assert (await runtime.ask("?")).answer == "told"


@pytest.mark.threat("T-002")
async def test_after_a_runaway_cell_the_next_turn_has_its_context(tmp_path: Path) -> None:
    """It swallows the interrupt and is ended: the observation repeats what was asked and answered."""
    model = observant_model(
        tmp_path,
        "llm_query('costly')\nwhile True:\n try:\n  while True: pass\n except BaseException: pass",
        r"used up its fuel[\s\S]*costly[\s\S]*the answer",
        "FINAL(len(context))",
        sub="the answer",
    )
    events = Events()
    async with running(small_policy(), model) as runtime:
        result = await runtime.ask("?", "x" * 77, sinks=[events.append])
    assert (result.answer, result.partial) == ("77", False)
    assert len(events.of("fuel_used")) == 2
    events.assert_complete()


@pytest.mark.threat("T-002")
async def test_variables_survive_a_cell_that_ran_out_of_fuel(tmp_path: Path) -> None:
    model = observant_model(tmp_path, "kept = 5\nwhile True: pass", "used up its fuel", "FINAL(kept)")
    async with running(small_policy(), model) as runtime:
        assert (await runtime.ask("?")).answer == "5"


async def test_queries_and_batches_go_through_the_ledger(script: Script) -> None:
    script.reply("root", "a = llm_query('one')\nb = llm_query_batched(['two', 'three'])\nFINAL([a, *b])")
    script.reply("sub", r"<\1>", pattern=r"^(\w+)$")
    events = Events()
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.answer == "['<one>', '<two>', '<three>']"
    assert result.spent["calls"] == 4
    groups = [data["group"] for data in events.of("query_received") if data["origin"] == "guest"]
    assert groups[0] is None
    assert groups[1] == groups[2] is not None
    events.assert_complete()


async def test_code_that_gets_further_in_silence_is_not_stopped_for_being_the_same(script: Script) -> None:
    script.reply("root", "todo, done = list('abcdefgh'), []", turn=1)
    script.reply("root", "FINAL(done)", turn=10)
    script.reply("root", "done.append(llm_query(todo.pop()))")
    script.reply("sub", r"<\1>", pattern=r"^(\w+)$")
    async with running(small_policy(run={"repeats_max": 1}), script.spec) as runtime:
        result = await runtime.ask("?")
    assert result.answer == str([f"<{letter}>" for letter in "hgfedcba"])


async def test_code_that_asks_and_shows_the_same_is_stopped_after_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "stuck.py"
    path.write_text(
        "def reply(messages, model):\n"
        "    if messages[0]['role'] != 'system': return 'seventeen'\n"
        "    if 'must end now' in messages[-1]['content']:\n"
        "        return 'told ' + str(sum('now sent the same' in m['content'] for m in messages))\n"
        "    return '```repl\\nx = llm_query(\"how many?\")\\n```'\n"
    )
    events = Events()
    async with running(small_policy(run={"repeats_max": 4}), f"script:{path}") as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert (result.answer, result.reason, result.partial) == ("told 3", "no_progress", True)
    assert result.spent["iterations"] == 6
    (stopping,) = events.of("run_stopping")
    assert stopping == {"cause": "no_progress", "reason": "no_progress"}
    events.assert_complete()


@pytest.mark.threat("T-020")
@pytest.mark.parametrize(
    ("sections", "reason", "calls"),
    [
        ({"budget": {"calls_max": 5}}, "budget: calls", 5),
        ({"run": {"turns_max": 2}}, "iterations_exhausted", 5),
        ({"budget": {"calls_max": 5}, "run": {"reserve_percent": 0}}, "budget: calls", 5),
    ],
)
async def test_a_run_that_a_budget_ends_asks_once_for_the_best_answer(
    tmp_path: Path, sections: dict[str, Any], reason: str, calls: int
) -> None:
    events = Events()
    async with running(small_policy(**sections), tireless_model(tmp_path)) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    asked = sections.get("run", {}).get("reserve_percent") != 0
    assert (result.answer, result.partial, result.reason) == (
        "I saw seventeen" if asked else None,
        True,
        reason,
    )
    assert result.spent["calls"] == calls
    origins = [data["origin"] for data in events.of("query_received")]
    assert origins.count("last") == asked
    events.assert_complete()


@pytest.mark.threat("T-020")
@pytest.mark.parametrize("model", ["gpt-99", "script:/etc/passwd", "openai:", "", " "])
async def test_a_model_the_policy_does_not_name_is_a_query_error_in_the_guest(
    script: Script, model: str
) -> None:
    source = (
        f"try: FINAL(llm_query('x', model={model!r}))\nexcept QueryError as e: FINAL('refused: ' + str(e))"
    )
    script.reply("root", source).reply("sub", "answered")
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?")
    assert "no model of that name" in str(result.answer)


@pytest.mark.threat("T-012")
async def test_a_boundary_violation_is_an_observation_and_the_run_goes_on(tmp_path: Path) -> None:
    source = 'import _rlm\n_rlm.call(b\'{"type":"llm_query","depth":0,"prompt":"x"}\')'
    model = observant_model(tmp_path, source, "not a valid request", "FINAL('went on')")
    async with running(small_policy(), model) as runtime:
        assert (await runtime.ask("?")).answer == "went on"


@pytest.mark.threat("T-007")
async def test_requests_over_a_cells_cap_are_denied_with_an_exception(script: Script) -> None:
    source = "n = 0\ntry:\n    while True:\n        llm_query('x'); n += 1\nexcept BudgetExceeded: FINAL(n)"
    script.reply("root", source).reply("sub", "ok")
    async with running(small_policy(), script.spec) as runtime:
        assert (await runtime.ask("?")).answer == "16"


@pytest.mark.threat("T-024")
async def test_a_budget_that_is_used_up_ends_with_the_best_answer_so_far(script: Script) -> None:
    script.reply("root", "Nothing to run; my best guess is 7.", plain=True)
    events = Events()
    policy = small_policy(budget={"calls_max": 2})
    async with running(policy, script.spec) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.partial
    assert "my best guess is 7" in str(result.answer)
    assert result.reason == "budget: calls"
    assert result.spent["calls"] == 2
    events.assert_complete()


@pytest.mark.threat("T-024")
async def test_iterations_end_the_run(script: Script) -> None:
    script.reply("root", "1")
    async with running(small_policy(budget={"iterations_max": 3}), script.spec) as runtime:
        result = await runtime.ask("?")
    assert result.partial
    assert result.spent["iterations"] == 3


@pytest.mark.threat("T-024")
async def test_the_fuel_of_a_run_is_shared_by_its_cells(script: Script) -> None:
    script.reply("root", "while True: pass")
    policy = small_policy(cell={"fuel_max": 1_000_000_000}, budget={"fuel_max": 2_500_000_000})
    events = Events()
    async with running(policy, script.spec) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.partial
    assert 2_499_000_000 < result.spent["fuel"] <= 2_500_000_000
    events.assert_complete()


async def test_the_wall_clock_ends_a_run_in_the_middle_of_a_cell(script: Script) -> None:
    script.reply("root", "while True: pass")
    policy = small_policy(
        run={"wall_ms_max": 1_000},
        cell={"wall_ms_max": 1_000, "sleep_ms_max": 100, "fuel_max": 10**12},
        budget={"fuel_max": 10**13},
        query={"timeout_ms_max": 1_000},
    )
    events = Events()
    async with running(policy, script.spec) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.partial
    assert result.reason.startswith("deadline")
    assert 1_000 <= result.wall_ms < 4_000
    events.assert_complete()


async def test_cancelling_a_run_gives_the_partial_answer(script: Script) -> None:
    script.reply("root", "A first thought: 42.", plain=True, turn=1).reply("root", "while True: pass")
    events = Events()
    policy = small_policy(cell={"fuel_max": 10**12}, budget={"fuel_max": 10**13})
    async with running(policy, script.spec) as runtime:

        def cancel_in_second_turn(event: Event) -> None:
            events.append(event)
            if event.kind == "query_answered" and len(events.of("query_answered")) == 2:
                runtime.cancel("stopped by the operator")

        result = await runtime.ask("?", sinks=[cancel_in_second_turn])
    assert result.partial
    assert "stopped by the operator" in result.reason
    assert result.answer is not None
    events.assert_complete()


async def test_a_query_cancelled_before_it_was_sent_costs_nothing(script: Script) -> None:
    script.reply("root", "FINAL(1)")
    events = Events()
    async with running(small_policy(), script.spec) as runtime:

        def cancel(event: Event) -> None:
            events.append(event)
            if event.kind == "query_sent":
                runtime.cancel("before anything was sent")

        result = await runtime.ask("?", sinks=[cancel])
    assert result.spent["calls"] == result.spent["input_tokens"] == 0
    (late,) = events.of("late_result")
    assert late["answered"] is False
    events.assert_complete()


async def test_cancelling_the_task_leaves_nothing_open(script: Script) -> None:
    script.reply("root", "while True: pass")
    events = Events()
    policy = small_policy(cell={"fuel_max": 10**12}, budget={"fuel_max": 10**13})
    async with running(policy, script.spec) as runtime:
        async with anyio.create_task_group() as tasks:

            def stop(event: Event) -> None:
                events.append(event)
                if event.kind == "query_answered":
                    tasks.cancel_scope.cancel()

            async def ask() -> None:
                await runtime.ask("?", sinks=[stop])

            tasks.start_soon(ask)
    events.assert_complete()


async def test_many_runs_at_once_share_one_runtime(script: Script) -> None:
    script.reply("root", "FINAL(llm_query(context))").reply("sub", r"<\1>", pattern=r"(\w+)")
    answers: dict[int, str | None] = {}
    async with running(small_policy(run={"permits_max": 2}), script.spec) as runtime:

        async def one(number: int) -> None:
            answers[number] = (await runtime.ask("?", f"c{number}")).answer

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(one, number)
    assert answers == {number: f"<c{number}>" for number in range(12)}


@pytest.mark.threat("T-025")
@pytest.mark.threat("T-115")
async def test_a_tenant_has_so_many_runs_and_another_has_its_own() -> None:
    class Slow:
        async def complete(self, query: Query) -> Completion:
            await anyio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            pass

    policy = small_policy(tenants={"runs_max": 2})
    async with Runtime(policy, route=lambda name: (Slow(), name)) as runtime:
        runs = [runtime.start("?", tenant="greedy") for _ in range(2)]
        with pytest.raises(Overloaded, match="this tenant has 2 runs, all that one tenant may have"):
            runtime.start("?", tenant="greedy")
        with pytest.raises(Overloaded) as caught:
            await runtime.ask("?", tenant="greedy")
        assert "tenants.runs_max" in str(caught.value.hint)
        runs.append(runtime.start("?", tenant="modest"))
        runs[0].cancel()
        assert (await runs[0].result()).partial
        runs.append(runtime.start("?", tenant="greedy"))
        assert runtime.metrics().tenants["greedy"].runs_refused == 2
        assert runtime.metrics().tenants["modest"].runs_refused == 0
        for run in runs:
            run.cancel()
        for run in runs:
            await run.result()


async def test_a_log_that_cannot_be_written_ends_the_run(script: Script) -> None:
    """/dev/full gives the kernel's own ENOSPC."""
    script.reply("root", "FINAL('unseen')")
    events = Events()
    async with running(small_policy(), script.spec) as runtime:
        with JsonlSink("/dev/full") as sink:
            result = await runtime.ask("?", sinks=[sink.write, events.append])
    assert result.partial
    assert result.answer is None
    assert "No space left on device" in result.reason
    events.assert_complete()


async def test_a_context_that_does_not_fit_is_the_callers_error(script: Script) -> None:
    script.reply("root", "FINAL(1)")
    events = Events()
    async with running(small_policy(sandbox={"context_bytes_max": 4_000}), script.spec) as runtime:
        with pytest.raises(UsageError, match="context_bytes_max"):
            await runtime.ask("?", "x" * 4_001, sinks=[events.append])
    events.assert_complete()


@pytest.mark.parametrize("context", [{"not a name": "x"}, {"c": {5}}])
async def test_a_context_of_another_kind_is_the_callers_error(script: Script, context: dict) -> None:
    script.reply("root", "FINAL(1)")
    async with running(small_policy(), script.spec) as runtime:
        with pytest.raises(UsageError):
            await runtime.ask("?", context)


async def test_several_contexts_have_their_names(script: Script) -> None:
    script.reply("root", "FINAL((first, second))")
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?", {"first": "a", "second": b"b"})
    assert result.answer == "('a', b'b')"


async def test_an_empty_question_is_refused(script: Script) -> None:
    script.reply("root", "FINAL(1)")
    async with running(small_policy(), script.spec) as runtime:
        with pytest.raises(UsageError, match="empty"):
            await runtime.ask("  ")


async def test_a_script_with_no_reply_ends_the_run_with_its_reason(script: Script) -> None:
    script.reply("sub", "never asked")
    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?")
    assert (result.answer, result.partial) == (None, True)
    assert result.reason.startswith("model_failed: ProviderError")


async def test_a_missing_script_is_told_before_any_guest_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        async with Runtime(small_policy(), model=f"script:{tmp_path / 'none.toml'}"):
            pass


@pytest.mark.threat("T-081")
async def test_texts_are_in_the_events_only_if_the_policy_says_so(script: Script) -> None:
    script.reply("root", "FINAL(llm_query('SECRET-PROMPT'))").reply("sub", "SECRET-ANSWER")
    for texts in (False, True):
        events = Events()
        async with running(small_policy(events={"texts": texts}), script.spec) as runtime:
            await runtime.ask("?", sinks=[events.append])
        written = repr([event.data for event in events])
        assert ("SECRET-PROMPT" in written) is texts
        assert ("SECRET-ANSWER" in written) is texts


@pytest.mark.threat("T-024")
@pytest.mark.parametrize("usage", [(True, "many"), (None, -3), (-1, 10**30), (1.5, True)], ids=str)
async def test_a_provider_of_ones_own_that_lies_about_usage_costs_what_can_be_seen(usage: tuple) -> None:
    text = "```repl\nFINAL(1)\n```"
    asked: list[Query] = []

    class Liar:
        async def complete(self, query: Query) -> Completion:
            asked.append(query)
            return Completion(text, *usage)

        async def aclose(self) -> None: ...

    policy = small_policy().with_models(root="script:own.py", sub=None)
    async with running(policy, route=lambda name: (Liar(), name)) as runtime:
        result = await runtime.ask("?")
    assert result.answer == "1"
    assert result.spent["output_tokens"] == len(text)
    [query] = asked
    said = sum(len(part.encode()) for message in query.messages for part in message)
    assert result.spent["input_tokens"] == said


async def test_a_provider_of_ones_own_without_text_fails_its_query_and_no_other() -> None:
    class Broken:
        async def complete(self, query: Query) -> Completion:
            return Completion(None, 1, 1)  # type: ignore[arg-type]

        async def aclose(self) -> None: ...

    policy = small_policy().with_models(root="script:own.py", sub=None)
    async with running(policy, route=lambda name: (Broken(), name)) as runtime:
        result = await runtime.ask("?")
    assert (result.answer, result.partial) == (None, True)
    assert result.reason.startswith("model_failed: ProviderError")


@pytest.mark.threat("T-025")
async def test_a_sink_that_raises_ends_its_run_and_no_other(script: Script) -> None:
    script.reply("root", "FINAL('done')")

    def broken(event: Event) -> None:
        raise KeyError("mine")

    async with running(small_policy(), script.spec) as runtime:
        result = await runtime.ask("?", sinks=[broken])
        assert (result.partial, result.reason) == (True, "events: KeyError: 'mine'")
        assert (await runtime.ask("?")).answer == "done"


class OutcomeException(BaseException):
    """No Exception, as a test framework raises one."""


@pytest.mark.parametrize("kind", ["query_received", "query_answered"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, OutcomeException])
@pytest.mark.threat("T-025")
async def test_a_sink_that_raises_what_is_no_exception_ends_its_run_and_no_other(
    script: Script, kind: str, error: type[BaseException]
) -> None:
    """A CancelledError ends the task that sends queries, without a word: no run's is sent again."""
    script.reply("root", "FINAL('done')")

    def broken(event: Event) -> None:
        if event.kind == kind:
            raise error("mine")

    async with running(small_policy(), script.spec) as runtime:
        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[broken])
            assert (result.partial, result.reason) == (True, f"events: {error.__name__}: mine")
            assert (await runtime.ask("?")).answer == "done"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio's come from scopes only
async def test_a_cancellation_that_only_the_provider_asked_for_fails_its_query_and_no_other() -> None:
    """It waits for a task of its own, which connects for all who ask, and that was cancelled."""

    class Shared:
        def __init__(self) -> None:
            self.asked = 0

        async def complete(self, query: Query) -> Completion:
            self.asked += 1
            if self.asked == 1:
                raise asyncio.CancelledError
            return Completion("```repl\nFINAL('done')\n```", 1, 1)

        async def aclose(self) -> None: ...

    provider = Shared()
    policy = small_policy().with_models(root="script:own.py", sub=None)
    async with running(policy, route=lambda name: (provider, name)) as runtime:
        with anyio.fail_after(60):
            result = await runtime.ask("?")
            assert result.reason.startswith("model_failed: ProviderError")
            assert (await runtime.ask("?")).answer == "done"


@pytest.mark.guest
@pytest.mark.usefixtures("guest", "healthy_host")
@pytest.mark.parametrize("kind", ["cell_ended", "run_answered", "run_ended"])
@pytest.mark.threat("T-025")
async def test_a_sink_that_fails_after_the_answer_was_given_is_in_the_result(
    script: Script, kind: str
) -> None:
    """The answer is there, and is not said to be final: who checks `partial` looks at the log as well."""
    script.reply("root", "FINAL('done')")
    rest = Events()

    def full(event: Event) -> None:
        if event.kind == kind:
            raise OSError("full")

    async with running(small_policy(), script.spec) as runtime:
        run = runtime.start("?", sinks=[full, rest.append])
        result = await run.result()
        assert result == await run.result()
        assert (result.answer, result.partial) == ("done", True)
        assert result.reason == "events: OSError: full"
        assert (await runtime.ask("?")).partial is False
    # What the model said of it is told to who could still be told.
    (answered,) = rest.of("run_answered")
    assert (answered["partial"], answered["reason"]) == (False, "finished")
    rest.assert_complete()


async def test_a_run_that_ended_early_says_why_and_that_an_event_is_missing(script: Script) -> None:
    script.reply("root", "no code", plain=True)

    def full(event: Event) -> None:
        if event.kind == "run_ended":
            raise OSError("full")

    async with running(small_policy(budget={"iterations_max": 1}), script.spec) as runtime:
        early = await runtime.ask("?")
        both = await runtime.ask("?", sinks=[full])
    assert (early.partial, both.partial) == (True, True)
    assert both.reason == f"{early.reason}; events: OSError: full"


class Slow:
    """A model that thinks for ever."""

    async def complete(self, query: Query) -> Completion:
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        pass


class OneSlow:
    """A root model that asks two questions, of which one is never answered."""

    async def complete(self, query: Query) -> Completion:
        if query.messages[0].role == "system":
            return Completion("```repl\nllm_query_batched(['slow', 'quick'])\n```", 1, 1)
        if query.messages[0].content == "slow":
            await anyio.sleep_forever()
        return Completion("quick", 1, 1)

    async def aclose(self) -> None:
        pass


async def test_a_run_that_its_sink_ends_tells_the_query_in_flight_as_spent() -> None:
    def fails_at_the_second_answer(event: Event) -> None:
        events.append(event)
        if len(events.of("query_answered")) == 2:
            raise OSError("full")

    events, rest = Events(), Events()
    async with running(small_policy(), route=lambda name: (OneSlow(), name)) as runtime:
        result = await runtime.ask("?", sinks=[fails_at_the_second_answer, rest.append])
    assert result.spent["calls"] == 3
    assert result.reason == "events: OSError: full"
    (ended,) = rest.of("run_ended")
    assert {f"{name}_spent": amount for name, amount in result.spent.items()}.items() <= ended.items()


def test_a_cancel_from_a_callback_of_the_event_loop_ends_every_run() -> None:
    """As a signal handler under asyncio.run does it. The first run's permit goes to the second, whose
    query is then sent: from no task.
    """
    results = []
    policy = small_policy(run={"permits_max": 1})

    async def main() -> None:
        async with running(policy, route=lambda name: (Slow(), name)) as runtime:

            async def ask() -> None:
                results.append(await runtime.ask("?"))

            async with asyncio.timeout(30), anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                asyncio.get_running_loop().call_soon(runtime.cancel)

    asyncio.run(main())
    assert [result.reason for result in results] == ["cancelled", "cancelled"]


async def test_a_runtime_opened_twice_or_used_closed_says_so(script: Script) -> None:
    script.reply("root", "FINAL('done')")
    async with running(small_policy(), script.spec) as runtime:
        with pytest.raises(UsageError, match="open already"):
            await runtime.__aenter__()
        assert (await runtime.ask("?")).answer == "done"
    with pytest.raises(UsageError, match="not open"):
        await runtime.ask("?")


class Unlucky(InlineWorker):
    """A worker whose first session cannot be opened: the process that was to hold it is gone."""

    lost = 0

    async def session(self, *arguments: Any, **more: Any) -> WorkerSession:
        if not self.lost:
            self.lost += 1
            raise WorkerLost("the worker process is gone")
        return await super().session(*arguments, **more)


async def test_a_session_that_could_not_be_opened_is_not_back_where_it_was(tmp_path: Path) -> None:
    model = observant_model(
        tmp_path, "1 + 1", "the worker process is gone[\\s\\S]*The session had to start anew", "FINAL('told')"
    )
    async with Runtime.in_world(small_policy(), World(worker=Unlucky()), model=model) as runtime:
        assert (await runtime.ask("?")).answer == "told"


async def test_a_block_that_is_too_long_is_the_hosts_limit_and_no_exception_of_the_guest(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[LoopInput] = []
    handle = RlmLoop.handle

    def seen(loop: RlmLoop, each: LoopInput) -> list[LoopEffect]:
        given.append(each)
        return handle(loop, each)

    monkeypatch.setattr(RlmLoop, "handle", seen)
    policy = small_policy(cell={"source_bytes_max": 1_000})
    script.reply("root", f"FINAL('{'x' * 1_000}')", turn=1).reply("root", "FINAL('short')")
    async with running(policy, script.spec) as runtime:
        assert (await runtime.ask("?")).answer == "short"
    (ended, _) = [each for each in given if isinstance(each, CellFinished)]
    assert ended.result.outcome is Outcome.SOURCE_EXCEEDED
    assert ended.result.session_state is SessionState.ALIVE
    error = ended.result.error
    assert error is not None
    assert (error.key, error.limit) == ("cell.source_bytes_max", 1_000)
    assert str(error) == "The block is longer than the 1000 bytes a cell may have."


async def test_a_run_that_met_a_limit_says_which(script: Script) -> None:
    script.reply("root", "x = 1")
    async with running(small_policy(budget={"calls_max": 2}), script.spec) as runtime:
        result = await runtime.ask("?")
    assert result.stop == StopReason.budget("calls", 2)
    with pytest.raises(RunLimitReached, match="budget: calls") as raised:
        result.raise_for_outcome()
    assert (raised.value.key, raised.value.limit) == ("budget.calls_max", 2)
