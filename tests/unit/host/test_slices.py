"""Whose turn it is: a session that the host answers goes on at once, for as long as a slice takes."""

from __future__ import annotations

import itertools
import os

import pytest

from rlm_wasm.ids import SessionId
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import AnswerRequest, Open, Report, Requested, StartCell
from rlm_wasm.vm.session_scheduler import TURN_NS, SessionScheduler
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

ASKING = "while True: llm_query('x')"
STEP_NS = TURN_NS // 8


class Table:
    """SessionScheduler whose every turn takes STEP_NS, with a host that answers at once."""

    def __init__(self) -> None:
        clock = itertools.count(0, STEP_NS)
        self.scheduler = SessionScheduler(load_guest_program, clock=lambda: next(clock))

    def sit(self, number: int, source: str) -> None:
        session = SessionId(number)

        def sink(report: Report) -> None:
            if isinstance(report, Requested):
                self.scheduler.perform(AnswerRequest(session, echo(report.frame)))

        limits = cell_limits(requests_max=100_000, fuel_max=10**14)
        self.scheduler.perform(Open(session, session_limits(), boundary_limits(), os.urandom, sink))
        self.scheduler.perform(StartCell(session, Cell(source, limits)))

    def play(self, turns: int) -> list[SessionId]:
        """Give so many turns; return whose they were."""
        whose = []
        for _ in range(turns):
            whose.append(self.scheduler._runnable[0])
            self.scheduler.turn()
        return whose


@pytest.mark.threat("T-018")
def test_a_session_that_is_answered_at_once_for_ever_gets_its_slice_and_no_more() -> None:
    table = Table()
    try:
        table.sit(1, ASKING)
        table.sit(2, ASKING)
        table.sit(3, "while True: pass")
        runs = [(who, len(list(group))) for who, group in itertools.groupby(table.play(200))]
        middle = runs[1:-1]
        assert {who for who, _ in middle} == {1, 2, 3}
        for who, length in middle:
            # Its slice of time and the turn in which that ended; a slice used up ends a turn by itself.
            assert length <= (1 if who == 3 else TURN_NS // STEP_NS + 1)
        assert [who for who, _ in middle[:6]] in ([2, 3, 1, 2, 3, 1], [1, 2, 3, 1, 2, 3], [3, 1, 2, 3, 1, 2])
    finally:
        table.scheduler.close_all()


def test_an_answered_session_goes_on_before_those_that_wait_for_their_turn() -> None:
    table = Table()
    try:
        table.sit(1, ASKING)
        table.sit(2, ASKING)
        whose = table.play(6)
        assert whose == [1] * 6
    finally:
        table.scheduler.close_all()
