"""Recorded trees of runs, repeated: conversations that ran side by side act again in the recorded order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, Provider, Query
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.runtime_facts import Events, running, small_policy, tree_model
from tests.unit.engine.test_children import DEEP, ENDLESS
from tests.unit.replay.test_replay import RECORDED

# ruff: noqa: ASYNC240 - a test may wait for its own small files
pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
SEEDS = [1, 2, 3]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


class Unsteady:
    """A provider whose answers come in any order: each takes a random number of turns of the event loop."""

    def __init__(self, inner: Provider, seed: int) -> None:
        self._inner, self._random = inner, random.Random(seed)

    async def complete(self, query: Query) -> Completion:
        for _ in range(self._random.randrange(200)):
            await anyio.lowlevel.checkpoint()
        return await self._inner.complete(query)

    async def aclose(self) -> None:
        await self._inner.aclose()


def recorded_policy(**sections: dict[str, Any]) -> Policy:
    return small_policy(**{**sections, **RECORDED})


async def record(log: Path, policy: Policy, model: str, seed: int, stop: Any = None) -> Events:
    """Record one run over a provider that answers in an order of `seed`'s."""
    events = Events()
    async with running(policy, model) as runtime:
        inner, _ = runtime._route(runtime.policy.models.root)
        unsteady = Unsteady(inner, seed)
        runtime._route = lambda name: (unsteady, name)
        with JsonlSink(log) as sink:
            sinks = [sink.write, events.append]
            if stop is not None:
                sinks.append(lambda event: stop(runtime, events, event))
            await runtime.ask("one", sinks=sinks)
    events.assert_complete()
    return events


async def assert_replays(log: Path) -> None:
    """Twice: what goes on side by side does so differently each time."""
    for _ in range(2):
        with anyio.fail_after(60):
            found = await replay(Recording.open(log))
        assert found.difference is None
        assert found.ended is None
        assert found.events == len(log.read_bytes().splitlines())


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_tree_of_three_levels_replays(tmp_path: Path, log: Path, seed: int) -> None:
    model = tree_model(
        tmp_path,
        one="import random\nFINAL([random.random(), *rlm_query_batched(['two a', 'two b', 'two c'])])",
        two="import random\nFINAL([random.random(), *rlm_query_batched(['three'] * 2), llm_query('x')])",
        three="import random\nFINAL([random.random(), *llm_query_batched(['a', 'b', 'c'])])",
    )
    await record(log, recorded_policy(run=DEEP), model, seed)
    await assert_replays(log)


@pytest.mark.parametrize("seed", SEEDS)
async def test_who_gets_the_last_of_a_budget_gets_it_again(tmp_path: Path, log: Path, seed: int) -> None:
    model = tree_model(
        tmp_path,
        one="FINAL(rlm_query_batched(['two a', 'two b', 'two c'], return_exceptions=True))",
        two=(
            "n = 0\ntry:\n    while True: llm_query('x'); n += 1\n"
            "except BudgetExceeded as e:\n    pass\n"
            "for _ in range(3):\n    try: llm_query('y')\n    except BudgetExceeded: pass\nFINAL(n)"
        ),
    )
    events = await record(log, recorded_policy(budget={"calls_max": 20}), model, seed)
    assert events.of("query_denied")
    await assert_replays(log)


async def test_children_that_end_early_replay(tmp_path: Path, log: Path) -> None:
    """By their part of the budget, by their deadline, without an answer, and one that is too deep."""
    model = tree_model(
        tmp_path,
        one=(
            "found = [rlm_query_batched(['spin'], budget={'iterations': 1}, return_exceptions=True)]\n"
            "found += rlm_query_batched(['slow', 'idle', 'two'], return_exceptions=True)\n"
            "FINAL([str(f) for f in found])"
        ),
        spin="2",
        slow="while True: pass",
        idle="1",
        two="try: rlm_query('three')\nexcept DepthExceeded as e: FINAL(str(e))",
    )
    policy = recorded_policy(run={"child_wall_ms_max": 700, "turns_max": 2}, **ENDLESS)
    events = await record(log, policy, model, 1)
    statuses = {data["status"] for data in events.of("child_answered")}
    assert statuses == {"failed", "timed_out", "completed"}
    assert events.of("child_gone")
    assert events.of("child_stopping")
    await assert_replays(log)


@pytest.mark.parametrize("after", [1, 3, 5, 9])
async def test_a_tree_that_is_cancelled_replays(tmp_path: Path, log: Path, after: int) -> None:
    model = tree_model(
        tmp_path,
        one="rlm_query_batched(['two'] * 2)",
        two="rlm_query_batched(['three'] * 2)",
        three="llm_query('x')\nwhile True: pass",
    )

    def stop(runtime: Any, events: Events, event: Event) -> None:
        if event.kind == "query_answered" and len(events.of("query_answered")) == after:
            runtime.cancel("by hand")

    events = await record(log, recorded_policy(run=DEEP, **ENDLESS), model, 5, stop)
    assert events[-1].data["stopped"] == "by hand"
    await assert_replays(log)


async def test_a_childs_answer_that_was_changed_is_found(tmp_path: Path, log: Path) -> None:
    model = tree_model(
        tmp_path, one="FINAL(rlm_query_batched(['two', 'two']))", two="FINAL(llm_query('old'))"
    )
    await record(log, recorded_policy(), model, 2)
    changed = log.read_bytes().replace(b'"text":"OLD"', b'"text":"NEW"')
    assert changed != log.read_bytes()
    log.write_bytes(changed)
    with anyio.fail_after(60):
        difference = (await replay(Recording.open(log))).difference
    assert difference is not None
    assert difference.got != difference.expected


def mangle(lines: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Leave an event out, put one in twice, or swap two, and number the rest so that the log still reads."""
    at = rng.randrange(2, len(lines) - 2)
    how = rng.randrange(3)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, dict(lines[rng.randrange(2, len(lines) - 2)]))
    else:
        other = rng.randrange(2, len(lines) - 2)
        lines[at], lines[other] = lines[other], lines[at]
    latest = 0
    for seq, line in enumerate(lines):
        latest = max(latest, line["at_ns"])
        line |= {"seq": seq, "at_ns": latest}
    return lines


@pytest.mark.threat("T-083")
async def test_no_mangled_recording_keeps_a_replay_waiting(tmp_path: Path, log: Path) -> None:
    """Whatever stands in the log, the replay ends: with a difference, or where the log gave up."""
    model = tree_model(
        tmp_path,
        one="FINAL(rlm_query_batched(['two a', 'two b']))",
        two=(
            "try:\n    for _ in range(9): llm_query('x')\n"
            "except BudgetExceeded:\n    FINAL(llm_query_batched(['a']))"
        ),
    )
    await record(log, recorded_policy(budget={"calls_max": 9}, run={"turns_max": 2}), model, 3)
    good = log.read_bytes()
    rng = random.Random(11)
    different = 0
    for _ in range(25):
        lines = mangle([json.loads(line) for line in good.splitlines()], rng)
        log.write_text(
            "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
        )
        with anyio.fail_after(30):
            found = await replay(Recording.open(log))
        assert found.difference is not None or found.ended is not None or log.read_bytes() == good
        different += found.difference is not None
    assert different > 15
