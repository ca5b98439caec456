"""Hundreds of seeded worlds, and proof that they would notice.

``just simulate 10000`` runs as many as wanted; ``python -m tests.simulation SEED`` tells one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.simulation.mutants import BREAK_AN_INVARIANT, BREAK_DETERMINISM, Break
from tests.simulation.world import Failed, World, simulate

SEEDS = 250
# A broken product is noticed within so many seeds.
NOTICED_WITHIN = 150


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


TELL = (
    "from tests.simulation.world import simulate; print(*[simulate(seed) for seed in range(1, {seeds} + 1)])"
)


def told_by_another_process(seeds: int, *, hash_seed: int = 1, before: str = "") -> list[str]:
    told = subprocess.run(
        [sys.executable, "-c", before + TELL.format(seeds=seeds)],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(set(told)) == seeds
    return told


@pytest.mark.threat("T-087")
def test_the_same_seed_gives_the_same_events_in_another_process() -> None:
    """Nothing depends on hashes of strings, addresses or the process's own entropy."""
    assert told_by_another_process(15, hash_seed=1) == told_by_another_process(15, hash_seed=2)


# Each clock of the process goes as it likes: seconds between two looks, or nothing.
RECKLESS_CLOCKS = """
import random, time
random = random.Random({seed})
offset_ns = 0
def reckless(read, unit):
    def clock(*which):
        global offset_ns
        offset_ns += random.choice((0, 1_000, 700_000, 5_000_000_000))
        return read(*which) + type(read(*which))(offset_ns / unit)
    return clock
for name in ("monotonic", "perf_counter", "time", "process_time", "thread_time", "clock_gettime"):
    setattr(time, name, reckless(getattr(time, name), 10**9))
    setattr(time, f"{{name}}_ns", reckless(getattr(time, f"{{name}}_ns"), 1))
"""


@pytest.mark.threat("T-087")
def test_the_same_seed_gives_the_same_events_whatever_the_clocks_of_the_process_say() -> None:
    one, other = (told_by_another_process(40, before=RECKLESS_CLOCKS.format(seed=seed)) for seed in (1, 2))
    assert one == other == [simulate(seed) for seed in range(1, 41)]


# It ends by itself, too: should nobody be left to end it.
BUSY = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (120, 120))\nwhile True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes computing meanwhile."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        yield


@pytest.mark.threat("T-087")
def test_the_same_seed_gives_the_same_events_while_others_keep_the_processors_busy() -> None:
    alone = [simulate(seed) for seed in range(1, 41)]
    with busy_processes(4):
        assert [simulate(seed) for seed in range(1, 41)] == alone


def uncancelled(seed: int) -> World:
    world = World(seed)
    world.plan.cancel_at = None
    return world


@pytest.fixture(scope="module")
def stepped() -> World:
    """The first world in which enough happens, and not too much, after it was lived through."""
    for seed in range(1, 1_000):
        world = uncancelled(seed)
        world.run()
        if 50 <= world.inputs <= 80 and world.plan.runs > 1:
            return world
    pytest.fail("nothing happens in these worlds")


@pytest.mark.threat("T-086")
@pytest.mark.parametrize("how", ["task", "soon", "at once"])
def test_runs_can_be_cancelled_at_every_step(stepped: World, how: str) -> None:
    for step in range(1, stepped.inputs + 1):
        world = World(stepped.seed)
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
