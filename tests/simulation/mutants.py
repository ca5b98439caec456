"""Ways to break the product on purpose. Each leaves it plausible; the simulation must notice every one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import pytest

from rlm_wasm.conversation import observations
from rlm_wasm.conversation.loop import RlmLoop
from rlm_wasm.engine import broker, conversation
from rlm_wasm.engine.timers import Timers
from rlm_wasm.inline.worker import InlineSession
from rlm_wasm.protocol import commands
from rlm_wasm.scheduler import retry
from rlm_wasm.scheduler.child_flow import ChildFlow
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import ClearTimer, Respond
from rlm_wasm.scheduler.event_recorder import EventRecorder
from rlm_wasm.scheduler.ledger import Charge, Ledger
from rlm_wasm.scheduler.permits import Permits
from rlm_wasm.scheduler.query_flow import QueryFlow
from rlm_wasm.scheduler.request import Cancelled, Completed, TimedOut
from rlm_wasm.scheduler.scheduler import Scheduler
from rlm_wasm.vm.session_scheduler import SessionScheduler

Break = Callable[[pytest.MonkeyPatch], None]


def a_permit_is_given_back_twice(patch: pytest.MonkeyPatch) -> None:
    release = Permits.release

    def twice(self: Any, *slot: Any) -> None:
        release(self, *slot)
        self._held -= 1

    patch.setattr(Permits, "release", twice)


def a_permit_is_kept_during_the_backoff(patch: pytest.MonkeyPatch) -> None:
    failed = QueryFlow.failed

    def keeps(self: Any, run: Any, given: Any) -> None:
        self._permits._held += 1  # one more than the runs know of
        failed(self, run, given)

    patch.setattr(QueryFlow, "failed", keeps)


def a_free_permit_is_not_handed_out(patch: pytest.MonkeyPatch) -> None:
    hand_out = Permits.hand_out
    patch.setattr(Permits, "hand_out", lambda self, now_ns: [] if self.held == 1 else hand_out(self, now_ns))


def _drops(patch: pytest.MonkeyPatch, effect: type, response: type | None = None) -> None:
    handle = Scheduler.handle

    def drops(self: Any, *given: Any) -> list[Any]:
        def lost(found: Any) -> bool:
            wanted = response is None or isinstance(getattr(found, "response", None), response)
            return isinstance(found, effect) and wanted

        return [found for found in handle(self, *given) if not lost(found)]

    patch.setattr(Scheduler, "handle", drops)


def a_cancelled_query_gets_no_response(patch: pytest.MonkeyPatch) -> None:
    _drops(patch, Respond, Cancelled)


def a_query_that_timed_out_gets_no_response(patch: pytest.MonkeyPatch) -> None:
    _drops(patch, Respond, TimedOut)


def a_timer_is_never_cleared(patch: pytest.MonkeyPatch) -> None:
    _drops(patch, ClearTimer)


def the_shell_forgets_to_clear_timers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Timers, "clear", lambda self, *key: None)


def the_shell_notices_timers_late(patch: pytest.MonkeyPatch) -> None:
    set_timer = Timers.set

    def late(self: Any, run_id: Any, timer_id: str, at_ns: int) -> None:
        set_timer(self, run_id, timer_id, at_ns + 1_000_000_000)

    patch.setattr(Timers, "set", late)


def a_late_bill_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "correct", lambda self, reservation, actual: actual or Charge())


def a_late_result_is_delivered(patch: pytest.MonkeyPatch) -> None:
    late_result = QueryFlow._late_result

    def delivers(self: Any, run: Any, given: Any) -> None:
        late_result(self, run, given)
        self._buffer.add(Respond(run.run_id, given.request_id, Completed("late", None)))

    patch.setattr(QueryFlow, "_late_result", delivers)


def a_query_has_no_deadline(patch: pytest.MonkeyPatch) -> None:
    set_timer = EffectBuffer.set_timer

    def forgets(self: Any, run: Any, timer_id: str, *more: Any) -> None:
        if not timer_id.startswith("query_deadline"):
            set_timer(self, run, timer_id, *more)

    patch.setattr(EffectBuffer, "set_timer", forgets)


def a_reservation_leaves_out_the_cost(patch: pytest.MonkeyPatch) -> None:
    reserve = Ledger.reserve

    def less(self: Any, charge: Charge) -> int:
        return reserve(self, Charge(charge.calls, 0, charge.input_tokens, charge.output_tokens))

    patch.setattr(Ledger, "reserve", less)


def an_overdraft_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "refuse_unless_fits", lambda self, charge: None)


def an_event_number_is_left_out(patch: pytest.MonkeyPatch) -> None:
    number = EventRecorder._number

    def skips(self: Any, kind: str, *more: Any) -> Any:
        self._seq += kind == "query_retry"
        return number(self, kind, *more)

    patch.setattr(EventRecorder, "_number", skips)


def answers_come_in_another_order(patch: pytest.MonkeyPatch) -> None:
    put = broker._Batch.put

    def elsewhere(self: Any, number: int, response: Any) -> None:
        numbers = list(self._responses)
        put(self, numbers[-1 - numbers.index(number)], response)

    patch.setattr(broker._Batch, "put", elsewhere)


def a_cancelled_call_is_left_running(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(broker._Sent, "cancel", lambda self: False)


def a_session_is_left_open(patch: pytest.MonkeyPatch) -> None:
    async def forgets(self: Any) -> None:
        self._session = None

    patch.setattr(conversation.Conversation, "_close_session", forgets)


def a_guest_is_not_stopped(patch: pytest.MonkeyPatch) -> None:
    perform = SessionScheduler.perform

    def deaf(self: Any, command: Any) -> None:
        if not isinstance(command, commands.Stop):
            perform(self, command)

    patch.setattr(SessionScheduler, "perform", deaf)


def an_observation_is_not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(observations, "cut_text", lambda text, bytes_max: text)


def a_child_is_forgotten_when_its_parent_ends(patch: pytest.MonkeyPatch) -> None:
    end_below = ChildFlow.end_below

    def forgets(self: Any, run: Any, branch: Any, reason: str) -> None:
        kept = {number: None for number in branch.open if number in run.children}
        for number in kept:
            del branch.open[number]
        end_below(self, run, branch, reason)
        branch.open.update(kept)

    patch.setattr(ChildFlow, "end_below", forgets)


def a_child_has_no_deadline(patch: pytest.MonkeyPatch) -> None:
    set_timer = EffectBuffer.set_timer

    def forgets(self: Any, run: Any, timer_id: str, *more: Any) -> None:
        if not timer_id.startswith("child_deadline"):
            set_timer(self, run, timer_id, *more)

    patch.setattr(EffectBuffer, "set_timer", forgets)


def a_childs_spending_is_its_own(patch: pytest.MonkeyPatch) -> None:
    view = Ledger.view

    def copy(self: Any, within: Any, *more: Any) -> Any:
        made = view(self, within, *more)
        made.chain = (made,)  # a copy of what is left, which is what overspends
        return made

    patch.setattr(Ledger, "view", copy)


def a_child_may_be_one_level_too_deep(patch: pytest.MonkeyPatch) -> None:
    accept = ChildFlow.accept

    def deeper(self: Any, run: Any, parent: Any, given: Any) -> Any:
        parent.depth -= 1
        try:
            child = accept(self, run, parent, given)
        finally:
            parent.depth += 1
        child.depth = parent.depth + 1
        return child

    patch.setattr(ChildFlow, "accept", deeper)


def more_fuel_is_given_than_is_reserved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "extend", lambda self, reservation, charge: None)


def a_cells_fuel_is_not_looked_for_in_the_ledger(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rlm_wasm.scheduler.fuel_flow.next_part", lambda cell, granted, available: cell - granted)


def a_start_that_is_given_up_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    open_ = InlineSession.open

    async def forgets(self: Any, *what: Any) -> None:
        try:
            await open_(self, *what)
        except BaseException:
            self._closed = True
            raise

    patch.setattr(InlineSession, "open", forgets)


def a_child_gives_its_place_up_too_early(patch: pytest.MonkeyPatch) -> None:
    abandon = ChildFlow.abandon

    def early(self: Any, run: Any, child: Any, response: Any, reason: str) -> None:
        abandon(self, run, child, response, reason)
        run.children.pop(child.request_id, None)

    patch.setattr(ChildFlow, "abandon", early)


def a_cell_that_is_refused_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RlmLoop, "_judged", lambda self, refused, judged=RlmLoop._judged: judged(self, None))


def the_jitter_is_no_seeds(patch: pytest.MonkeyPatch) -> None:
    def unit(*_: int) -> float:
        return os.urandom(1)[0] / 256

    patch.setattr(retry, "jitter_unit", unit)
    patch.setattr("rlm_wasm.scheduler.query_flow.jitter_unit", unit)


# Those that only a second run of the same seed can show.
BREAK_DETERMINISM: Final[tuple[Break, ...]] = (the_jitter_is_no_seeds,)
BREAK_AN_INVARIANT: Final[tuple[Break, ...]] = (
    a_permit_is_given_back_twice,
    a_permit_is_kept_during_the_backoff,
    a_free_permit_is_not_handed_out,
    a_cancelled_query_gets_no_response,
    a_query_that_timed_out_gets_no_response,
    a_timer_is_never_cleared,
    the_shell_forgets_to_clear_timers,
    the_shell_notices_timers_late,
    a_late_bill_is_forgotten,
    a_late_result_is_delivered,
    a_query_has_no_deadline,
    a_reservation_leaves_out_the_cost,
    an_overdraft_goes_on,
    an_event_number_is_left_out,
    answers_come_in_another_order,
    a_cancelled_call_is_left_running,
    a_session_is_left_open,
    a_start_that_is_given_up_is_forgotten,
    a_guest_is_not_stopped,
    an_observation_is_not_cut,
    a_child_is_forgotten_when_its_parent_ends,
    a_child_has_no_deadline,
    a_childs_spending_is_its_own,
    a_child_may_be_one_level_too_deep,
    a_child_gives_its_place_up_too_early,
    more_fuel_is_given_than_is_reserved,
    a_cells_fuel_is_not_looked_for_in_the_ledger,
    a_cell_that_is_refused_runs,
)
