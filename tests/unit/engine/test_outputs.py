"""Handing a run's files out ends with the run, whatever it waits for, and costs no answer."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from rlm_wasm.engine import conversation
from rlm_wasm.engine.session_files import SessionFiles
from rlm_wasm.events import Event
from tests.support.runtime_facts import Events, Script, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


class Outputs:
    """Never comes to an end by itself."""

    def __init__(self) -> None:
        self.ended = 0

    async def __call__(self, files: SessionFiles) -> None:
        assert await files.list("/out")
        try:
            await anyio.sleep_forever()
        finally:
            self.ended += 1


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


async def test_the_runs_deadline_ends_it_and_the_answer_is_whole(script: Script) -> None:
    script.reply("root", "FINAL('paid')")
    policy = small_policy(
        run={"wall_ms_max": 3_000},
        cell={"wall_ms_max": 1_000, "sleep_ms_max": 100},
        query={"timeout_ms_max": 1_000},
    )
    outputs, events = Outputs(), Events()
    async with running(policy, script.spec) as runtime:
        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[events.append], outputs=outputs)
    assert (result.answer, result.partial, outputs.ended) == ("paid", False, 1)
    events.assert_complete()


NEVER_TELLS = """
import rlm_files
def tell(*_):
    while True: pass
rlm_files.tell = tell
"""


async def test_a_cell_for_files_that_is_cut_off_is_counted_all_the_same(script: Script) -> None:
    script.reply("root", NEVER_TELLS, turn=1).reply("root", "FINAL('paid')", turn=2)
    events = Events()
    policy = small_policy(cell={"fuel_max": 10**12}, budget={"fuel_max": 10**13})
    async with running(policy, script.spec) as runtime:

        async def hand_out(files: SessionFiles) -> None:
            with anyio.move_on_after(1):
                await files.list("/out")

        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[events.append], outputs=hand_out)
        used = runtime.metrics().total
    assert (result.answer, used.cells) == ("paid", len(events.of("cell_ended")) + 1)


async def test_a_cancel_ends_it_and_the_answer_is_whole(script: Script) -> None:
    script.reply("root", "FINAL('paid')")
    outputs, events = Outputs(), Events()
    async with running(small_policy(), script.spec) as runtime:

        async def hand_out(files: SessionFiles) -> None:
            runtime.cancel()
            await outputs(files)

        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[events.append], outputs=hand_out)
    assert (result.answer, result.partial) == ("paid", False)
    events.assert_complete()


async def test_a_cancel_ends_it_also_where_a_limit_had_ended_the_run(script: Script) -> None:
    script.reply("root", "while True: pass")
    outputs, events = Outputs(), Events()
    policy = small_policy(cell={"fuel_max": 10**9}, budget={"fuel_max": 10**9})
    async with running(policy, script.spec) as runtime:

        async def hand_out(files: SessionFiles) -> None:
            runtime.cancel()
            await outputs(files)

        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[events.append], outputs=hand_out)
    assert result.reason == "budget: fuel"
    events.assert_complete()


async def test_of_a_run_that_was_ended_the_files_are_still_handed_out_but_not_for_ever(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "AFTER_END_SECONDS_MAX", 2)
    script.reply("root", "A first thought: 42.", plain=True, turn=1).reply("root", "x = 1", turn=2)
    script.reply("root", "while True: pass", turn=3)
    outputs, events = Outputs(), Events()
    policy = small_policy(cell={"fuel_max": 10**12}, budget={"fuel_max": 10**13})
    async with running(policy, script.spec) as runtime:

        def cancel_in_third_turn(event: Event) -> None:
            events.append(event)
            if event.kind == "query_answered" and len(events.of("query_answered")) == 3:
                runtime.cancel("stopped by the operator")

        with anyio.fail_after(60):
            result = await runtime.ask("?", sinks=[cancel_in_third_turn], outputs=outputs)
    assert (result.partial, outputs.ended) == (True, 1)
    assert "stopped by the operator" in result.reason
    events.assert_complete()
