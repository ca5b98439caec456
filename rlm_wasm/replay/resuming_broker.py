"""A broker that repeats a run as far as its log goes, and then performs what the scheduler decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rlm_wasm.engine.broker import Broker
from rlm_wasm.errors import LostInFlight, ToolError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.replay.broker import Outside, ReplayBroker
from rlm_wasm.replay.recorded_event import int_in, request_in
from rlm_wasm.replay.recorded_order import RecordedOrder
from rlm_wasm.replay.recording import Recording
from rlm_wasm.scheduler.scheduler import (
    CallTool,
    CancelQuery,
    CancelTool,
    ClearTimer,
    Input,
    Noted,
    ProviderAnswered,
    ProviderFailed,
    SendQuery,
    SetTimer,
    TimerFired,
    ToolFinished,
)


class ResumingBroker(ReplayBroker):
    """A broker for the one run that `recording` is of, which goes on where that ends.

    Until then the timers that are set and the attempts that are under way are only kept. `goes_on` is called
    once, before the first event that is no repetition.
    """

    def __init__(
        self,
        order: RecordedOrder,
        recording: Recording,
        goes_on: Callable[[], None],
        permits: PermitLimits,
        clock: Callable[[], int],
    ) -> None:
        super().__init__(order, permits, clock)
        self._live = False
        self._run_id: Final = recording.run_id
        self._goes_on: Final = goes_on
        self._due: dict[tuple[RunId, str], SetTimer] = {}
        self._under_way: dict[tuple[RequestId, int], SendQuery] = {}
        # Whatever else is under way then was decided, and not sent: its event comes first.
        self._sent: Final = {
            (request_in(event), int_in(event, "attempt"))
            for event in recording.events
            if event.kind == "query_sent"
        }
        self._calls_under_way: dict[RequestId, CallTool] = {}
        self._called: Final = {request_in(event) for event in recording.events if event.kind == "tool_called"}

    def _handle(self, given: Input) -> None:
        if self._live:
            Broker._handle(self, self._recorded.restated(given))
            return
        self._take_back(given)
        super()._handle(given)

    def _take_back(self, given: Input) -> None:
        if isinstance(given, TimerFired):
            self._due.pop((given.run_id, given.timer_id), None)
        elif isinstance(given, ProviderAnswered | ProviderFailed):
            self._under_way.pop((given.request_id, given.attempt), None)
        elif isinstance(given, ToolFinished):
            self._calls_under_way.pop(given.request_id, None)

    def _outside(self, effect: Outside) -> None:
        match effect:
            case SetTimer():
                self._due[effect.run_id, effect.timer_id] = effect
            case ClearTimer():
                self._due.pop((effect.run_id, effect.timer_id), None)
            case SendQuery():
                self._under_way[effect.request_id, effect.attempt] = effect
            case CancelQuery():
                self._under_way.pop((effect.request_id, effect.attempt), None)
            case CallTool():
                self._calls_under_way[effect.request_id] = effect
            case CancelTool():
                self._calls_under_way.pop(effect.request_id, None)

    def _end_replay(self) -> None:
        if self._live:
            return
        if not self._recorded.came_to_its_end:
            super()._end_replay()
            return
        self._live = True
        self._goes_on()
        lost = [key for key in self._under_way if key in self._sent]
        data: dict[str, object] = {"events": self._recorded.compared, "in_flight": len(lost)}
        self.submit(Noted(self._run_id, "run_resumed", data))
        for timer in self._due.values():
            self._set_timer(timer)
        for key, effect in self._under_way.items():
            if key not in self._sent:
                self._send_soon(effect)
        for given in self._recorded.untold():
            self.submit(given)
        for number, attempt in lost:
            gone = LostInFlight("the run's process ended before an answer came")
            self.submit(ProviderFailed(self._run_id, number, attempt, gone, retryable=True, sent=True))
        for request_id, call in self._calls_under_way.items():
            if request_id not in self._called:
                self._call_soon(call)
                continue
            # What it did is done, and nobody knows what that is: it is not called again.
            unknown = ToolError("the run's process ended before the tool came back")
            self.submit(ToolFinished(self._run_id, request_id, error=unknown))
