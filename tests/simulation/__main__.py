"""``python -m tests.simulation 12345`` runs one seed and tells its events; ``--count N`` runs many."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from tests.simulation.world import Failed, World, simulate

_CHUNK = 50
_TOLD = 500


def _some(first: int, count: int) -> list[str]:
    failures = []
    for seed in range(first, first + count):
        try:
            simulate(seed)
        except Failed as failed:
            failures.append(str(failed))
    return failures


def _many(first: int, count: int, jobs: int) -> int:
    began = time.monotonic()
    chunks = [(at, min(_CHUNK, first + count - at)) for at in range(first, first + count, _CHUNK)]
    failures: list[str] = []
    with ProcessPoolExecutor(jobs) as pool:
        for (at, of_these), found in zip(chunks, pool.map(_some, *zip(*chunks, strict=True)), strict=True):
            failures += found
            for line in found:
                print(line, flush=True)
            done = at - first + of_these
            if done % _TOLD == 0:
                print(f"{done} seeds after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{count} seeds from {first}: {len(failures)} failed, {seconds:.0f} s with {jobs} processes")
    return 1 if failures else 0


def _one(seed: int) -> int:
    world = World(seed)
    status = 0
    try:
        print("fingerprint", world.run())
    except Failed as failed:
        status = 1
        print(failed)
    print(world.plan)
    for line in islice(world.events, 2_000):
        print(line.decode())
    for result in world.results:
        print(result)
    for wrong in [*world._books.wrong, *world.wrong]:
        print("WRONG", wrong)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="run this one and tell everything")
    parser.add_argument("--count", type=int, help="run so many")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if given.count:
        return _many(given.first, given.count, given.jobs)
    if given.seed is None:
        parser.error("give a seed, or --count")
    return _one(given.seed)


if __name__ == "__main__":
    sys.exit(main())
