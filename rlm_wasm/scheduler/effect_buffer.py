"""The effects of one input, gathered in order, with the time at which it came."""

from __future__ import annotations

from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.effects import ClearTimer, Effect, EmitEvent, SetTimer
from rlm_wasm.scheduler.run_state import NS_PER_MS, RunState


class EffectBuffer:
    """The effects since the last `drain`. A clock that goes back is taken to stand still."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._effects: list[Effect] = []

    def tick(self, now_ns: int) -> None:
        """Take the time of the next input."""
        if now_ns > self.now_ns:
            self.now_ns = now_ns

    def drain(self) -> list[Effect]:
        """Return the effects gathered, and start again."""
        effects, self._effects = self._effects, []
        return effects

    def add(self, effect: Effect) -> None:
        """Gather one effect."""
        self._effects.append(effect)

    def record(
        self,
        run: RunState,
        kind: str,
        data: dict[str, object],
        depth: int = 0,
        parent: RequestId | None = None,
    ) -> None:
        """Write one event of a run, with the depth of a conversation and the request that one answers."""
        for event in run.recorder.record(kind, self.now_ns, data, depth=depth, parent=parent):
            self._effects.append(EmitEvent(event))

    def record_end(self, run: RunState, data: dict[str, object]) -> None:
        """Write the last event of a run."""
        for event in run.recorder.close(self.now_ns, data):
            self._effects.append(EmitEvent(event))

    def set_timer(self, run: RunState, timer_id: str, request_id: RequestId | None, at_ns: int) -> None:
        """Set a timer for a request, or for the run itself (None)."""
        run.timers[timer_id] = request_id
        self.add(SetTimer(run.run_id, timer_id, at_ns))

    def clear_timer(self, run: RunState, timer_id: str) -> None:
        """Clear a timer if it is set."""
        if timer_id in run.timers:
            del run.timers[timer_id]
            self.add(ClearTimer(run.run_id, timer_id))

    def after_ms(self, delay_ms: int) -> int:
        """Return the time in `delay_ms` milliseconds."""
        return self.now_ns + delay_ms * NS_PER_MS
