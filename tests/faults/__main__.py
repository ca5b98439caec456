"""``python -m tests.faults COUNT [SEED]``: faults over real worker processes, and what they came to."""

from __future__ import annotations

import random
import sys
import time
from random import Random
from typing import Final

import anyio

from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.inline.guest_loader import load_guest_program
from tests.faults.rounds import ROUNDS_A_POOL, STUCK_SECONDS, Tally, rounds
from tests.faults.runs import runs
from tests.faults.starts import starts
from tests.faults.watchdog import watched
from tests.support.backends import NAMES, backend_of

# Longer than anything that ends by a bound of its own, one after the other, in one round.
_STILL_SECONDS: Final = 6 * int(STUCK_SECONDS)


def spread(values: list[float]) -> str:
    """Return the middle, the 99th of 100 and the most of some seconds, in milliseconds."""
    if not values:
        return "none"
    ordered = sorted(values)
    at = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
    return "median {:.0f}, 99th {:.0f}, most {:.0f} ms".format(*(1000 * each for each in at))


def main(count: int, seed: int) -> None:
    """Let the faults come."""
    guest_files()  # held by a process from its first worker on
    load_guest_program()  # and from its first guest of its own on
    began = time.monotonic()
    print(f"{count} faults, seed {seed}", flush=True)
    tally, drawn = Tally(), Random(seed)
    while tally.count < count:
        of_pool = drawn.randrange(1 << 32)
        backend = drawn.choice(NAMES)
        of_what = drawn.choice((rounds, rounds, rounds, runs, starts))
        name, options = backend_of(backend)
        about = f"{of_what.__name__} of the seed {of_pool} on {backend}"
        try:
            with watched(about, tally.faults.total, looks_max=_STILL_SECONDS):
                anyio.run(of_what, tally, of_pool, ROUNDS_A_POOL, backend=name, backend_options=options)
        except BaseException:
            print(f"failed: {about}", flush=True)
            raise
        print(f"{tally.count} faults after {time.monotonic() - began:.0f} s", flush=True)
    for kind, number in sorted(tally.faults.items()):
        print(f"  {kind}: {number}")
    print(f"operations: {dict(tally.outcomes.most_common())}")
    print(f"fault to its error: {spread(tally.told)}; n = {len(tally.told)}")
    print(f"a fresh session's first cell: {spread(tally.fresh)}; after another loss: {tally.lost_again}")
    print(f"disturbed from outside: {tally.resumed} resumed, stopped for {tally.stopped:.0f} s")
    print(f"nothing left; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(
        int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    )
