"""A broker for replays: conversations act in the recorded order, the world outside is the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from rlm_wasm.engine.broker import Answered, Broker, Driver, Refusals, Router, Sink
from rlm_wasm.engine.run_tools import ToolCaller, nobody_calls
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.replay.conversation_order import Turns
from rlm_wasm.replay.recorded_order import RecordedOrder
from rlm_wasm.scheduler.request import Response
from rlm_wasm.scheduler.scheduler import (
    CallTool,
    CancelQuery,
    CancelTool,
    ChildRequested,
    ClearTimer,
    Input,
    QueryReceived,
    RunStarted,
    SendQuery,
    SetTimer,
    StartChild,
    Surplus,
    ToolCalled,
)

# What reaches outside. In a replay that comes from the recording.
Outside: TypeAlias = SendQuery | CancelQuery | CallTool | CancelTool | SetTimer | ClearTimer


class ReplayBroker(Broker):
    """A broker for the one run that `recorded` is of.

    The answers of providers, the timers and the operator's word come from the recording. Guests and loops run
    for real, each conversation in its recorded turn; where nobody can act any more, the replay ends.
    """

    def __init__(self, recorded: RecordedOrder, permits: PermitLimits, clock: Callable[[], int]) -> None:
        super().__init__(permits, clock)
        self._recorded: Final = recorded
        self._turns: Final = Turns(recorded)

    def start_run(
        self,
        started: RunStarted,
        route: Router,
        sinks: Iterable[Sink],
        driver: Driver,
        tools: ToolCaller = nobody_calls,
    ) -> None:
        """Open the run."""
        self._turns.begins(None)
        super().start_run(started, route, sinks, driver, tools)

    def ask(
        self,
        run_id: RunId,
        batch: Sequence[QueryReceived | ChildRequested | ToolCalled],
        answered: Answered,
        surplus: Surplus | None = None,
    ) -> None:
        """Submit requests; until they are answered, their conversation waits."""
        wait = self._turns.waits(batch[0].parent if surplus is None else surplus.parent)

        def over(responses: list[Response], refusals: Refusals) -> None:
            self._turns.over(wait)
            answered(responses, refusals)

        super().ask(run_id, batch, over, surplus)

    def submit(self, given: Input) -> None:
        """Let the scheduler decide about an input, if the recording has it next."""
        if not self._turns.take(given):
            self._give_turns()
            return
        nested = self._performing
        super().submit(given)
        if not nested:
            self._give_turns()

    async def turn(self, parent: RequestId | None) -> None:
        """Wait until the recording says that it is a conversation's turn."""
        if not self._turns.are_taken_by(parent):
            with self._turns.waiting(parent) as came:
                self._give_turns()
                await came.wait()

    def at_turn(self, parent: RequestId | None, act: Callable[[], object]) -> None:
        """Call `act` when the recording says that it is this conversation's turn."""
        if self._turns.are_taken_by(parent):
            act()
        else:
            self._turns.at_turn(parent, act)
            self._give_turns()

    def stirs(self, parent: RequestId | None) -> None:
        """A conversation is woken from whatever it waits for here."""
        self._turns.stirs(parent)

    def _give_turns(self) -> None:
        """Let those act whose turn it is; where nobody ever will again, end the replay."""
        while not self._performing:
            if (act := self._turns.next_act()) is not None:
                act()
            elif self._turns.stand_still:
                self._turns.give_up()
                self._end_replay()
            else:
                return

    def _handle(self, given: Input) -> None:
        """Perform an input's effects as far as they stay inside; with the last one, go on as recorded."""
        for effect in self._scheduler.handle(self._recorded.restated(given), self.clock()):
            self._recorded.performed(effect)
            if isinstance(effect, Outside):
                self._outside(effect)
            else:
                self._performs[type(effect)](effect)
        if not self._inputs:
            self._follow()

    def _outside(self, effect: Outside) -> None:
        """Do what reaches outside: nothing, here. Who goes on behind the recording has to know of it."""

    def _follow(self) -> None:
        """Let come from outside what the recording has next; end the run where it has nothing more."""
        if (given := self._recorded.due()) is not None:
            self._inputs.append(given)
        elif self._recorded.over:
            self._end_replay()

    def _end_replay(self) -> None:
        for run in self._runs.values():
            run.driver.end(StopReason.recording_over())

    def _start_child(self, effect: StartChild) -> None:
        self._turns.begins(effect.request_id)
        super()._start_child(effect)
