"""A hook that sees the cells of a simulated run, misbehaves now and then, and knows what may have run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final

import anyio

from rlm_wasm.engine.cell_judge import PassCell, PendingCell, RefuseCell, StopRun
from rlm_wasm.events import Event

Place = tuple[int | None, int]


class SimulatedHook:
    """Lets most cells pass; refuses, stops, raises, says nothing or hangs as its chances want."""

    def __init__(self, random: Random) -> None:
        self._random: Final = random
        self.is_there: Final = random.random() < 0.4
        self._passed: set[Place] = set()

    async def __call__(self, cell: PendingCell) -> Any:
        """Decide about a cell."""
        random, place = self._random, (cell.parent, cell.cell)
        what = random.choices(("pass", "refuse", "stop", "raise", "nothing", "hang"), (80, 10, 3, 3, 2, 2))[0]
        await anyio.sleep(random.choice((0, 0, 0.01, 0.5)))
        match what:
            case "pass":
                self._passed.add(place)
                return PassCell()
            case "refuse":
                return RefuseCell("refused " * random.choice((1, 2_000)))
            case "stop":
                return StopRun("stopped")
            case "raise":
                raise random.choice((KeyError("a bug"), SystemExit(3), KeyboardInterrupt()))
            case "hang":
                await anyio.sleep_forever()

    def wrong_in(self, events: Sequence[Event]) -> Iterator[str]:
        """Yield what a log tells that must not be: each cell that ran was let pass, and told so before."""
        told: set[Place] = set()
        for event in events if self.is_there else ():
            if event.kind == "cell_judged" and event.data["verdict"] == "passed":
                told.add((event.parent, int(str(event.data["cell"]))))
            elif event.kind == "cell_started":
                place = (event.parent, int(str(event.data["cell"])))
                if place not in told or place not in self._passed:
                    yield f"a cell ran that its hook did not let pass: {place}"
