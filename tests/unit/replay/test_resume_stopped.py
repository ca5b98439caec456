"""Runs taken up while something in them was stopped already: what it did last is told and paid for once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.events import Event
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.results import RunResult
from tests.support.runtime_facts import Script, running, tree_model
from tests.unit.engine.test_children import ENDLESS
from tests.unit.replay.test_replay import recorded_policy
from tests.unit.replay.test_resume import keep, lines_of, resumed, rows_of

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
LAST_ACTS = ("cell_ended", "fuel_used", "session_ended")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def place_of(lines: list[dict[str, Any]], kind: str) -> int:
    return next(n for n, line in enumerate(lines) if line["kind"] == kind)


def fuel_of(lines: list[dict[str, Any]], parent: int | None, kind: str = "fuel_used") -> list[int]:
    return [line["data"]["fuel"] for line in lines if (line["kind"], line["parent"]) == (kind, parent)]


async def taken_up_behind(count: int, log: Path) -> tuple[RunResult, list[dict[str, Any]]]:
    """Take a run up whose log had so many lines; return what came of it and its whole log, which replays."""
    cut, new = log.with_name("cut.jsonl"), log.with_name("new.jsonl")
    keep(cut, rows_of(log)[:count])
    result = await resumed(cut, new)
    found = await replay(Recording.open(new))
    after = lines_of(new)
    assert (found.difference, found.ended, found.events) == (None, None, len(after))
    used = [line["data"]["fuel"] for line in after if line["kind"] == "fuel_used"]
    assert result.spent["fuel"] == sum(used)
    return result, after


async def test_the_cell_of_a_run_that_was_cancelled_is_paid_for_once(log: Path, tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.reply("root", "while True: llm_query('x')").reply("sub", "yes")
    policy = recorded_policy(cell={"requests_max": 1_000}, budget={"calls_max": 1_000})
    with JsonlSink(log) as sink:
        async with running(policy, script.spec) as runtime:

            def cancel(event: Event) -> None:
                if event.kind == "query_answered" and event.parent is None and event.seq > 12:
                    runtime.cancel("enough")

            await runtime.ask("?", sinks=[sink.write, cancel])
    lines = lines_of(log)
    assert [line["kind"] for line in lines if line["kind"] in LAST_ACTS] == list(LAST_ACTS)
    for count in range(place_of(lines, "run_stopping") + 1, len(lines)):
        result, after = await taken_up_behind(count, log)
        assert [line["kind"] for line in after if line["kind"] in LAST_ACTS] == list(LAST_ACTS)
        # What a stopped cell still did is chance; what the log says of it stands.
        assert fuel_of(after, None) == fuel_of(after, None, "cell_ended")
        assert [result.spent["fuel"]] == (fuel_of(lines[:count], None, "cell_ended") or fuel_of(after, None))


@pytest.mark.threat("T-024")
async def test_the_cell_of_a_child_that_ran_out_of_time_is_paid_for_once(log: Path, tmp_path: Path) -> None:
    """And never with what is reserved for its parent's cell, which goes on."""
    policy = recorded_policy(run={"child_wall_ms_max": 1_000}, **ENDLESS)
    model = tree_model(
        tmp_path,
        ask="try: rlm_query('slow')\nexcept QueryTimeout: pass\nFINAL(llm_query('z'))",
        slow="while True: pass",
    )
    with JsonlSink(log) as sink:
        async with running(policy, model) as runtime:
            await runtime.ask("ask", sinks=[sink.write])
    lines = lines_of(log)
    gone = place_of(lines, "child_gone")
    number = lines[gone]["data"]["request"]
    for count in range(place_of(lines, "child_answered") + 1, gone + 2):
        result, after = await taken_up_behind(count, log)
        assert result.answer == "Z"
        assert [line["data"]["request"] for line in after if line["kind"] == "child_gone"] == [number]
        # Each once, as far as its cell had begun; where that is not told, it may not have begun again.
        for kind in LAST_ACTS:
            there, here = fuel_of(lines, number, kind), fuel_of(after, number, kind)
            assert len(here) == len(there) or kind == "cell_ended"
            said = fuel_of(lines[:count], number, kind)
            assert said == here[: len(said)]
        if ended := fuel_of(lines[:count], number, "cell_ended"):
            assert fuel_of(after, number) == ended
        # The root's cell is told once, when it ends, with what it used.
        assert len(fuel_of(after, None)) == 1
        assert fuel_of(after, None) == fuel_of(after, None, "cell_ended")
