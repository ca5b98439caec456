"""Child runs with real parts: own sessions, one ledger, typed failures, and nothing left of them."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import RunResult
from tests.support.runtime_facts import Events, running, small_policy, tree_model

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

DEEP = {"depth_max": 3, "fanout_max": 16, "sessions_max": 64, "child_share_percent": 100}
SECONDS_MAX = 30
ENDLESS = {"cell": {"fuel_max": 10**12, "wall_ms_max": 60_000}, "budget": {"fuel_max": 10**13}}


async def asked(folder: Path, policy: Policy, context: str = "", **code: str) -> tuple[RunResult, Events]:
    """Ask the question that is the first word of `code`; return what came of it, with every event."""
    events = Events()
    async with running(policy, tree_model(folder, **code)) as runtime:
        with anyio.fail_after(SECONDS_MAX):
            result = await runtime.ask(next(iter(code)), context, sinks=[events.append])
    events.assert_complete()
    return result, events


async def test_a_child_has_the_prompt_as_its_context_and_answers(tmp_path: Path) -> None:
    result, events = await asked(
        tmp_path,
        small_policy(),
        context="the root",
        ask="mine = 1\nFINAL(rlm_query('child of ' + context))",
        child="FINAL((context, 'mine' in globals()))",
    )
    assert result.answer == "('child of the root', False)"
    assert (result.spent["children"], result.spent["iterations"], result.spent["calls"]) == (1, 2, 2)
    (begun,) = events.of("child_started")
    inner = [event for event in events if event.parent == begun["request"]]
    assert {event.depth for event in inner} == {1}
    assert {"iteration_started", "query_sent", "query_answered", "fuel_used"} <= {e.kind for e in inner}


async def test_children_of_children_share_one_ledger(tmp_path: Path) -> None:
    result, events = await asked(
        tmp_path,
        small_policy(run=DEEP),
        one="FINAL(rlm_query('two') + llm_query('a'))",
        two="FINAL(rlm_query('three') + llm_query('b'))",
        three="FINAL(llm_query('c'))",
    )
    assert result.answer == "CBA"
    assert (result.spent["children"], result.spent["calls"]) == (2, 6)
    assert result.spent["fuel"] == sum(data["fuel"] for data in events.of("fuel_used"))  # type: ignore[misc]


async def test_a_batch_of_children_runs_in_parallel_and_comes_back_in_order(tmp_path: Path) -> None:
    result, events = await asked(
        tmp_path,
        small_policy(),
        ask="FINAL(rlm_query_batched([f'child {n}' for n in range(5)]))",
        child="FINAL(llm_query(context))",
    )
    assert result.answer == str([f"CHILD {n}" for n in range(5)])
    kinds = [event.kind for event in events]
    assert kinds.index("child_answered") > max(n for n, kind in enumerate(kinds) if kind == "child_started")
    assert len({data["group"] for data in events.of("child_started")}) == 1


async def test_a_child_that_gets_no_session_has_failed_and_its_parent_goes_on(tmp_path: Path) -> None:
    """The policy's one worker is the parent's."""
    model = tree_model(
        tmp_path,
        ask="try: rlm_query('child')\nexcept ChildFailed as e: FINAL(str(e))",
        child="FINAL(1)",
    )
    one = {"workers_max": 1, "sessions_max": 1, "sessions_per_worker_max": 1, "zygotes_max": 1}
    policy = small_policy(sandbox={"isolation": "session"}, workers=one)
    events = Events()
    async with Runtime(policy, model=model) as runtime:
        result = await runtime.ask("ask", sinks=[events.append])
    assert result.answer == "the child could not begin: all 1 sessions are in use"
    assert not result.partial
    events.assert_complete()


@pytest.mark.threat("T-070")
async def test_too_deep_is_an_exception_that_the_guest_can_catch(tmp_path: Path) -> None:
    result, _ = await asked(
        tmp_path,
        small_policy(),
        one="FINAL(rlm_query('two'))",
        two="try: rlm_query('three')\nexcept DepthExceeded as e: FINAL(f'{e}; {budget()[\"depth\"]}')",
    )
    assert str(result.answer).startswith("a child would be at depth 2, 1 allowed")
    assert "'available': 0" in str(result.answer)


async def test_a_child_without_an_answer_is_a_typed_exception_with_its_best(tmp_path: Path) -> None:
    result, _ = await asked(
        tmp_path,
        small_policy(run={"turns_max": 2}),
        ask="try: rlm_query('draft')\nexcept ChildFailed as e: FINAL((str(e), e.partial))",
        draft="answer['content'] = 'not ready'",
    )
    assert result.answer is not None
    assert "iterations_exhausted" in result.answer
    assert "not ready" in result.answer


@pytest.mark.threat("T-071")
async def test_one_permit_is_enough_for_a_tree_of_any_depth(tmp_path: Path) -> None:
    """A guest that waits for a child holds no permit: with one, every depth still gets its turns."""
    permits = {"total_max": 1, "provider_max": 1, "model_max": 1, "adaptive_min": 1}
    result, _ = await asked(
        tmp_path,
        small_policy(run=DEEP | {"permits_max": 1}, permits=permits),
        one="FINAL(rlm_query_batched(['two', 'two']))",
        two="FINAL(rlm_query('three') + llm_query('b'))",
        three="FINAL(llm_query('c'))",
    )
    assert result.answer == "['CB', 'CB']"


@pytest.mark.threat("T-072")
async def test_parents_that_fill_every_place_are_refused_and_not_queued(tmp_path: Path) -> None:
    result, _ = await asked(
        tmp_path,
        small_policy(run=DEEP | {"sessions_max": 4}),
        one="FINAL(rlm_query_batched(['two'] * 3, return_exceptions=True))",
        two="try: FINAL(rlm_query('three'))\nexcept BudgetExceeded as e: FINAL(str(e))",
        three="FINAL('reached')",
    )
    assert str(result.answer).count("run.sessions budget exceeded") >= 1


@pytest.mark.threat("T-073")
async def test_a_childs_deadline_is_a_timeout_in_its_parent(tmp_path: Path) -> None:
    result, events = await asked(
        tmp_path,
        small_policy(run={"child_wall_ms_max": 300}, **ENDLESS),
        ask="try: rlm_query('slow')\nexcept QueryTimeout as e: FINAL(str(e))",
        slow="while True: pass",
    )
    assert result.answer == "no answer within 300 ms"
    assert [data["status"] for data in events.of("child_answered")] == ["timed_out"]
    assert len(events.of("child_gone")) == 1


@pytest.mark.threat("T-073")
async def test_cancelling_a_run_ends_every_descendant_and_gives_the_partial_answer(tmp_path: Path) -> None:
    model = tree_model(
        tmp_path,
        one="rlm_query_batched(['two'] * 2)",
        two="rlm_query_batched(['three'] * 2)",
        three="while True: pass",
    )
    events = Events()
    async with running(small_policy(run=DEEP, **ENDLESS), model) as runtime:

        def cancel_when_all_run(event: Event) -> None:
            events.append(event)
            if len([e for e in events if e.kind == "query_answered" and e.depth == 2]) == 4:
                runtime.cancel("by hand")

        with anyio.fail_after(SECONDS_MAX):
            result = await runtime.ask("one", sinks=[cancel_when_all_run])
    assert (result.partial, result.reason) == (True, "by hand")
    events.assert_complete()
    answered = events.of("child_answered")
    assert [data["status"] for data in answered] == ["cancelled"] * 6


@pytest.mark.threat("T-073")
async def test_cancelling_the_task_leaves_no_descendant(tmp_path: Path) -> None:
    model = tree_model(tmp_path, one="rlm_query_batched(['two'] * 3)", two="while True: pass")
    events = Events()
    async with running(small_policy(**ENDLESS), model) as runtime:
        async with anyio.create_task_group() as tasks:

            def stop(event: Event) -> None:
                events.append(event)
                if len([e for e in events if e.kind == "query_answered" and e.depth == 1]) == 3:
                    tasks.cancel_scope.cancel()

            async def ask() -> None:
                await runtime.ask("one", sinks=[stop])

            tasks.start_soon(ask)
    events.assert_complete()


@pytest.mark.threat("T-074")
async def test_a_child_keeps_to_the_part_of_the_budget_it_was_given(tmp_path: Path) -> None:
    result, _ = await asked(
        tmp_path,
        small_policy(),
        ask="text = rlm_query('greedy', budget={'calls': 4})\nFINAL((text, budget()['calls']['spent']))",
        greedy=(
            "n = 0\n"
            "try:\n    while True: llm_query('x'); n += 1\n"
            "except BudgetExceeded as e: FINAL(f'{n}: {e}')"
        ),
    )
    assert result.answer == "('3: calls budget exceeded: requested 1, 0 of 4 available', 5)"


@pytest.mark.threat("T-074")
async def test_a_child_whose_fuel_is_used_up_ends_alone(tmp_path: Path) -> None:
    result, events = await asked(
        tmp_path,
        small_policy(),
        ask="try: rlm_query('spin', budget={'fuel': 200_000_000})\nexcept ChildFailed as e: FINAL(str(e))",
        spin="while True: pass",
    )
    assert (result.partial, result.answer) == (False, "the child ended early: budget: fuel")
    (child,) = events.of("child_answered")
    assert 199_000_000 < child["fuel_spent"] <= 200_000_000  # type: ignore[operator]


@pytest.mark.threat("T-075")
async def test_the_fuel_of_a_cancelled_cell_is_counted(tmp_path: Path) -> None:
    model = tree_model(tmp_path, ask="FINAL(0) if llm_query('go') == '' else 0\nwhile True: pass")
    events = Events()
    async with running(small_policy(**ENDLESS), model) as runtime:
        async with anyio.create_task_group() as tasks:

            def cancel_soon(event: Event) -> None:
                events.append(event)
                if event.kind == "query_answered" and event.data["request"] == 2:
                    tasks.start_soon(cancel)

            async def cancel() -> None:
                runtime.cancel("by hand")

            result = await runtime.ask("ask", sinks=[cancel_soon])
    assert result.reason == "by hand"
    (used,) = events.of("fuel_used")
    assert result.spent["fuel"] == used["fuel"] > 0  # type: ignore[operator]
    assert events[-1].data["fuel_spent"] == used["fuel"]


async def test_the_guest_sees_all_that_is_left(tmp_path: Path) -> None:
    result, _ = await asked(
        tmp_path,
        small_policy(run=DEEP),
        ask="FINAL(rlm_query('look', budget={'calls': 7, 'children': 0}))",
        look="b = budget()\nFINAL({k: v['available'] for k, v in b.items()})",
    )
    left = eval(str(result.answer))
    assert (left["calls"], left["children"], left["depth"], left["sessions"]) == (6, 0, 2, 62)
    assert 0 < left["run_ms"] <= 300_000
    assert (left["cell_requests"], left["cell_children"]) == (16, 16)
    assert {"requests", "input_tokens", "cost_microdollars", "iterations", "fuel", "observation_bytes"} < set(
        left
    )


async def test_every_session_of_a_run_can_start_from_an_image(tmp_path: Path) -> None:
    model = tree_model(
        tmp_path,
        ask="FINAL((prepared(context), rlm_query('child')))",
        child="seen.append(context)\nFINAL((prepared(context), seen))",
    )
    policy = small_policy()
    async with Sandbox(policy) as sandbox, await sandbox.session() as session:
        await session.exec("seen = ['image']\ndef prepared(text): return text[::-1]")
        image = await session.snapshot()
        async with running(policy, model) as runtime:
            answer = (await runtime.ask("ask", "root", snapshot=image)).answer
            again = (await runtime.ask("ask", "root", snapshot=image)).answer
    # The answer of a child is text; its session is its own, and so is each run's.
    assert answer == again == str(("toor", str(("dlihc", ["image", "child"]))))


async def test_depth_chooses_the_model(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = tree_model(tmp_path, ask="FINAL(rlm_query('ask'))")
    two = tree_model(tmp_path / "other", ask="FINAL('the other model')")
    policy = small_policy().replace(models={"root": one, "sub": one, "child": [two]})
    async with running(policy) as runtime:
        assert (await runtime.ask("ask")).answer == "the other model"


@pytest.mark.threat("T-073")
async def test_children_end_with_the_cell_that_asked(tmp_path: Path) -> None:
    """A child at its deadline takes its own child with it, in the middle of a cell."""
    result, events = await asked(
        tmp_path,
        small_policy(run=DEEP | {"child_wall_ms_max": 400}, **ENDLESS),
        one="try: rlm_query('two')\nexcept QueryTimeout: FINAL('gave up')",
        two="rlm_query('three')",
        three="while True: pass",
    )
    assert result.answer == "gave up"
    assert [data["status"] for data in events.of("child_answered")] == ["cancelled", "timed_out"]
    assert len(events.of("child_gone")) == 2
