"""The fuel of a run is one account, however many cells compute side by side and wherever their guests are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import WorkerLost
from rlm_wasm.policy.model import Policy
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.runtime_facts import Events, observant_model, running, small_policy, tree_model
from tests.unit.replay.test_replay import RECORDED

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
FUEL = 300_000_000
WIDE: dict[str, Any] = {"fanout_max": 40, "sessions_max": 41, "child_share_percent": 100}
LOCKED: dict[str, Any] = {"isolation": "session", "require_lockdown": True}


def policy_of(fuel: int = FUEL, budget: int = FUEL, **sections: dict[str, Any]) -> Policy:
    cell = {"fuel_max": fuel, "requests_max": 64}
    boundary, fuel_max = {"batch_items_max": 40}, {"fuel_max": budget}
    return small_policy(run=WIDE, cell=cell, boundary=boundary, budget=fuel_max, **sections)


def spinners(folder: Path, count: int, then: str = "FINAL(len(found))") -> str:
    """A root that starts as many children, none of which ever stops by itself."""
    ask = f"found = rlm_query_batched(['spin'] * {count}, return_exceptions=True)\n{then}"
    return tree_model(folder, one=ask, spin="while True: pass")


@pytest.mark.threat("T-024")
@pytest.mark.parametrize(("isolation", "children"), [({}, 30), (LOCKED, 12)], ids=["inline", "locked"])
async def test_children_side_by_side_never_use_more_than_the_run_has(
    tmp_path: Path, isolation: dict[str, Any], children: int
) -> None:
    events = Events()
    policy = policy_of(sandbox=isolation)
    with anyio.fail_after(120):
        async with Runtime(policy, model=spinners(tmp_path, children)) as runtime:
            result = await runtime.ask("one", sinks=[events.append])
    events.assert_complete()
    used = [data["fuel"] for data in events.of("fuel_used")]
    assert sum(used) == result.spent["fuel"] <= FUEL  # type: ignore[arg-type]
    assert len(used) > children // 2, "one after the other, the first of them had it all"
    assert events.of("overdraft") == []
    # At every moment, from the log alone: what is spent and what cells still hold.
    held: dict[int | None, int] = {}
    spent = 0
    for event in events:
        if event.kind in ("cell_started", "fuel_granted"):
            held[event.parent] = held.get(event.parent, 0) + event.data["fuel"]  # type: ignore[operator]
        elif event.kind == "fuel_used":
            assert event.data["fuel"] <= held.pop(event.parent)  # type: ignore[operator]
            spent += event.data["fuel"]  # type: ignore[operator]
        assert spent + sum(held.values()) <= FUEL
    assert held == {}


async def test_a_waiting_parent_holds_a_part_and_not_all_that_its_cell_may_use(tmp_path: Path) -> None:
    """All of the budget is one cell's maximum: its child would get nothing."""
    events = Events()
    model = tree_model(tmp_path, one="FINAL(rlm_query('two'))", two="FINAL(sum(range(10)))")
    async with running(policy_of(), model) as runtime:
        result = await runtime.ask("one", sinks=[events.append])
    assert (result.answer, result.partial) == ("45", False)
    assert [data["fuel"] for data in events.of("cell_started")] == [FUEL // 16, FUEL // 16]


@pytest.mark.threat("T-024")
async def test_a_cell_whose_worker_is_lost_costs_no_more_than_it_was_given(tmp_path: Path) -> None:
    """Its fuel is known to nobody: time says how much it may have been, and the reservation bounds that."""
    events = Events()
    policy = policy_of(10 * FUEL, 50 * FUEL, sandbox=LOCKED)
    model = observant_model(tmp_path, "while True: pass", "worker", "FINAL('gone')")
    async with Runtime(policy, model=model) as runtime:
        killed = []

        def kill(event: Any) -> None:
            events.append(event)
            if event.kind == "fuel_granted" and not killed:
                (connection,) = runtime._worker.connections  # type: ignore[attr-defined]
                connection.child.kill()
                killed.append(event.data["granted"])

        with anyio.fail_after(60):
            result = await runtime.ask("one", sinks=[kill])
    assert result.answer == "gone"
    lost, _ = events.of("cell_ended")
    assert lost["outcome"] == WorkerLost.outcome
    assert 0 < lost["fuel"] <= killed[0]  # type: ignore[operator]


@pytest.mark.threat("T-024")
async def test_a_cell_that_never_got_its_place_to_compute_costs_nothing(tmp_path: Path) -> None:
    """The first child computes for as long as both have; the other's cell waits for it."""
    events = Events()
    policy = policy_of(10**12, 10**13, tenants={"cells_max": 1}).replace(run={"child_wall_ms_max": 300})
    with anyio.fail_after(60):
        async with running(policy, spinners(tmp_path, 2)) as runtime:
            result = await runtime.ask("one", sinks=[events.append])
    events.assert_complete()
    assert result.answer == "2"
    first, other = (event.parent for event in events if event.kind == "cell_started" and event.parent)
    used = {event.parent: event.data["fuel"] for event in events if event.kind == "fuel_used"}
    ended = {event.parent: event.data["outcome"] for event in events if event.kind == "cell_ended"}
    assert used[first] > 0 == used[other]  # type: ignore[operator]
    assert ended[first] == ended[other] == "cancelled"


@pytest.mark.parametrize("seed", [1, 2])
async def test_who_was_given_the_last_of_the_fuel_is_given_it_again(tmp_path: Path, seed: int) -> None:
    log = tmp_path / "events.jsonl"
    policy = policy_of(**RECORDED)
    with anyio.fail_after(120):
        async with running(policy, spinners(tmp_path, 3 * seed)) as runtime:
            with JsonlSink(log) as sink:
                events = Events()
                await runtime.ask("one", sinks=[sink.write, events.append])
        assert 0 in [data["fuel"] for data in events.of("fuel_granted")]
        for _ in range(2):
            found = await replay(Recording.open(log))
            assert (found.difference, found.ended) == (None, None)
            assert found.events == len(events)
