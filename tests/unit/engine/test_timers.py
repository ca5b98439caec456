"""Timers: what is cleared takes no room for long."""

from __future__ import annotations

from rlm_wasm.engine.timers import STALE_MAX, Timers
from rlm_wasm.ids import RunId

RUN = RunId("run_1")


def test_a_deadline_that_is_seldom_met_does_not_fill_the_heap() -> None:
    timers = Timers(lambda run_id, timer_id: None, lambda: 0)
    timers.set(RUN, "stays", 10**15)
    for number in range(20 * STALE_MAX):
        timers.set(RUN, f"t{number}", 10**15 + number)
        timers.clear(RUN, f"t{number}")
    assert len(timers) == 1
    assert len(timers._heap) <= STALE_MAX + 4
    assert (10**15, (RUN, "stays")) in timers._heap
