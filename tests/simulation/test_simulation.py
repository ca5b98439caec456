"""Hundreds of seeded worlds, and proof that they would notice.

``just simulate 10000`` runs as many as wanted; ``python -m tests.simulation SEED`` tells one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mutants import BREAK_AN_INVARIANT, BREAK_DETERMINISM, Break
from tests.simulation.world import Failed, World, simulate

SEEDS = 250
# A broken product is noticed within so many seeds.
NOTICED_WITHIN = 150
STEPPED_SEED = 27


def live_through(seeds: int) -> None:
    for seed in range(1, seeds + 1):
        simulate(seed)


@pytest.mark.threat("T-086")
@pytest.mark.parametrize("first", range(1, SEEDS + 1, 50))
def test_no_world_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + 50):
        simulate(seed)


@pytest.mark.threat("T-087")
def test_the_same_seed_gives_the_same_events_and_results() -> None:
    for seed in range(1, 21):
        assert simulate(seed) == simulate(seed)


@pytest.mark.threat("T-087")
def test_the_same_seed_gives_the_same_events_in_another_process() -> None:
    """Nothing depends on hashes of strings, addresses, the clock or the process's own entropy."""
    program = "from tests.simulation.world import simulate; print(*[simulate(seed) for seed in range(1, 16)])"
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(set(told[0].split())) == 15


@pytest.mark.threat("T-086")
@pytest.mark.parametrize("how", ["task", "soon", "at once"])
def test_runs_can_be_cancelled_at_every_step(how: str) -> None:
    last = World(STEPPED_SEED)
    last.plan.cancel_at = None
    last.run()
    assert 30 < last.inputs < 90, "choose another seed: too little or too much happens in this one"
    for step in range(1, last.inputs + 1):
        world = World(STEPPED_SEED)
        world.plan.cancel_at, world.plan.cancel_how = step, how
        world.run()


@pytest.mark.parametrize("how", BREAK_AN_INVARIANT, ids=lambda how: how.__name__)
def test_a_broken_product_is_noticed(how: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    how(monkeypatch)
    with pytest.raises(Failed, match=r"^seed (\d+): .*; again: python -m tests\.simulation \1$"):
        live_through(NOTICED_WITHIN)


@pytest.mark.parametrize("how", BREAK_DETERMINISM, ids=lambda how: how.__name__)
def test_a_product_that_does_not_repeat_itself_is_noticed(
    how: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    how(monkeypatch)
    assert any(simulate(seed) != simulate(seed) for seed in range(1, NOTICED_WITHIN + 1))
