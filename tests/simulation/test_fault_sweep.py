"""The n-th use of a resource fails, for every n until a run no longer comes that far.

Simulated first, where each use of each resource can fail and the world checks everything. Then with
what this machine refuses for real: descriptors, files, fuel. Each time the books are balanced and
nothing is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from tests.simulation.books import Books
from tests.simulation.plan import RESOURCES
from tests.simulation.starved import Model
from tests.simulation.watched import watch
from tests.simulation.world import World
from tests.support.runtime_facts import small_policy

USES_MIN = {"sink": 40, "session": 2, "memory": 10, "guest": 30, "permit": 15, "provider": 15, "start": 2}
USES_MAX = 250  # together: each is a world to live through


def scenario(seed: int, **fails_at: int) -> World:
    """A seed's world without any fault but the one that is asked for."""
    world = World(seed)
    plan = world.plan
    plan.runs, plan.faults, plan.cancel_at, plan.close_after_ms = 2, 0.0, None, None
    plan.start_how = ("task", "operator")[seed % 2]
    # Never reached: the sink that can fail is there and does not.
    plan.fails_at = {"sink": 10**9} | fails_at
    return world


@pytest.fixture(scope="module")
def seed() -> int:
    """The first one in whose world enough happens, and not too much."""
    for seed in range(1, 1_000):
        world = scenario(seed)
        world.run()
        enough = all(world.uses[resource] >= uses for resource, uses in USES_MIN.items())
        if enough and sum(world.uses.values()) <= USES_MAX:
            return seed
    pytest.fail("nothing happens in these worlds")


@pytest.mark.threat("T-088")
@pytest.mark.parametrize("resource", RESOURCES)
def test_whichever_use_of_a_resource_fails_the_books_balance_and_nothing_is_left(
    seed: int, resource: str
) -> None:
    clean = scenario(seed).run()
    told = set()
    use = 0
    while True:
        use += 1
        world = scenario(seed, **{resource: use})
        told.add(world.run())
        if world.uses[resource] < use:
            break
    assert clean in told, "the last one has no fault"
    assert len(told) > USES_MIN[resource] // 2, "a fault that changes nothing is none"


@pytest.mark.guest
@pytest.mark.threat("T-088")
@pytest.mark.parametrize("kind", ["fds", "files", "log"])
def test_a_process_that_is_refused_something_ends_the_run_and_lives(kind: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulation.starved", kind], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    runs: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    for run in runs:
        assert run["wrong"] == [], run
        assert run["idle"], run
        # Fewer where the worker had one for a moment when they were counted before the run.
        assert run["fds"] <= 0, run
        error = run.get("error")
        assert error in (None, "HostExhausted", "RlmWasmError"), run
        refused = error is None and run["partial"]
        assert not refused or run["reason"].startswith("events: "), run
    assert [run.get("reason") for run in runs[-2:]] == ["finished", "finished"]
    refusals = len(runs) - 2
    assert refusals >= 2, "nothing was refused"
    if kind == "log":
        # What is in the log is whole lines, and each refused write was another one.
        assert [run["lines"] for run in runs] == sorted(run["lines"] for run in runs)


@pytest.mark.guest
@pytest.mark.threat("T-088")
@pytest.mark.usefixtures("guest", "healthy_host")
def test_a_run_of_the_real_guest_ends_at_whatever_point_its_fuel_is_used_up() -> None:
    reasons = []

    async def one(fuel: int) -> str:
        policy = small_policy(budget={"fuel_max": fuel}, cell={"fuel_max": fuel})
        books = Books(policy.permit_limits())
        async with Runtime(policy, route=lambda name: (Model(), name)) as runtime:
            assert runtime._broker is not None
            watch(runtime._broker, books, lambda: None)
            result = await runtime.ask("?", "x")
            assert runtime._broker.idle
        assert books.wrong == []
        assert result.spent["fuel"] <= fuel
        return result.reason

    fuel = 10_000
    while not reasons or reasons[-1] != "finished":
        reasons.append(anyio.run(one, fuel))
        fuel = fuel * 5 // 4
        assert len(reasons) < 100
    assert "budget: fuel" in reasons
    assert len(reasons) > 5
