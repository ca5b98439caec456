"""A cell's fuel is reserved in parts before it is used, and what is left of it comes back."""

from __future__ import annotations

import pytest

from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.effects import EndRun, GiveFuel, StopChild
from rlm_wasm.scheduler.fuel_flow import CELL_PARTS, PART_FUEL_MIN, SHARES, next_part
from rlm_wasm.scheduler.inputs import CellStarted, ChildFinished, FuelUsed, FuelWanted, RunCancelled, RunEnded
from rlm_wasm.scheduler.ledger import Dimension
from tests.support.core_facts import RUN, budget, child, run_limits, started
from tests.support.scheduler_driver import Driver, events, fired, of

PART = PART_FUEL_MIN
CELL = 3 * PART


def driver(fuel: int, children: int = 0, **limits: int) -> Driver:
    made = Driver()
    facts = started(
        budget=budget(fuel_max=fuel, children_max=100, requests_max=200, calls_max=200, iterations_max=200),
        run=run_limits(fanout_max=100, sessions_max=101, **limits),
        cell_fuel_max=CELL,
    )
    made.give(facts, *(child(number + 1) for number in range(children)))
    return made


def begin(made: Driver, parent: int | None = None) -> int:
    node = None if parent is None else RequestId(parent)
    (given,) = of(GiveFuel, made.give(CellStarted(RUN, 1, 9, node)))
    assert given.parent == node
    return given.fuel


def more(made: Driver, parent: int | None = None) -> int:
    (given,) = of(GiveFuel, made.give(FuelWanted(RUN, None if parent is None else RequestId(parent))))
    return given.fuel


def account(made: Driver, parent: int | None = None) -> tuple[int, int]:
    line = made.scheduler.budget_view(RUN, None if parent is None else RequestId(parent))[Dimension.FUEL]
    return line.spent, line.reserved


@pytest.mark.parametrize(
    ("cell", "granted", "available", "part"),
    [
        (1_600 * PART, 0, 10**12, 100 * PART),  # a sixteenth of the cell's
        (1_600 * PART, 0, 80 * PART, 10 * PART),  # an eighth of what there is
        (1_600 * PART, 0, 2 * PART, PART),  # never less than is worth a wait
        (1_600 * PART, 0, 5, 5),  # but no more than there is
        (1_600 * PART, 1_599 * PART, 10**12, PART),
        (1_600 * PART, 1_600 * PART - 3, 10**12, 3),  # nor than the cell may have
        (1_600 * PART, 1_600 * PART, 10**12, 0),
        (1_600 * PART, 0, 0, 0),
    ],
)
def test_a_part_is_a_share_of_the_cells_and_of_what_there_is(
    cell: int, granted: int, available: int, part: int
) -> None:
    assert next_part(cell, granted, available) == part


def test_a_cell_gets_all_it_may_have_in_parts_that_many_can_share() -> None:
    """Alone it asks a few times only; a hundred at once all begin."""
    granted, asked, cell = 0, 0, 60_000_000_000
    while part := next_part(cell, granted, 10 * cell):
        granted, asked = granted + part, asked + 1
    assert (granted, asked) == (cell, CELL_PARTS)
    left = 20 * cell
    for _ in range(100):
        part = next_part(cell, 0, left)
        assert part >= cell // CELL_PARTS // SHARES
        left -= part


@pytest.mark.threat("T-024")
def test_fuel_is_reserved_before_a_cell_runs_and_settled_after_it() -> None:
    made = driver(10 * PART)
    assert begin(made) == PART
    assert account(made) == (0, PART)
    assert more(made) == PART
    assert account(made) == (0, 2 * PART)
    said = made.give(FuelUsed(RUN, PART + 1))
    assert account(made) == (PART + 1, 0)
    assert [(e.kind, e.data) for e in events(said)] == [("fuel_used", {"fuel": PART + 1, "total": PART + 1})]
    assert [e.data for e in made.events("cell_started")] == [{"cell": 1, "source_bytes": 9, "fuel": PART}]
    assert [e.data for e in made.events("fuel_granted")] == [{"fuel": PART, "granted": 2 * PART}]


@pytest.mark.threat("T-024")
def test_cells_side_by_side_never_get_more_than_the_run_has() -> None:
    made = driver(12 * PART, children=10)
    nodes: list[int | None] = [None, *range(1, 11)]
    given = {node: begin(made, node) for node in nodes}
    for _ in range(5):
        for node in nodes:
            given[node] += more(made, node)
    assert sum(given.values()) == 12 * PART
    assert account(made) == (0, 12 * PART)
    for node in nodes:
        made.give(FuelUsed(RUN, given[node], None if node is None else RequestId(node)))
    assert account(made) == (12 * PART, 0)
    assert made.events("overdraft") == []


def test_a_refused_part_is_an_event_and_what_comes_back_can_be_had() -> None:
    made = driver(3 * PART, children=2)
    assert [begin(made), begin(made, 1), begin(made, 2)] == [PART, PART, PART]
    assert more(made, 1) == 0
    assert made.events("fuel_granted")[-1].data == {"fuel": 0, "granted": PART}
    made.give(FuelUsed(RUN, 7, RequestId(2)))
    assert more(made, 1) == PART - 7


@pytest.mark.threat("T-074")
def test_a_childs_cell_gets_no_more_than_its_cap() -> None:
    made = driver(100 * PART)
    made.give(child(1, caps={Dimension.FUEL: PART + 5}))
    assert begin(made, 1) == PART
    assert more(made, 1) == 5
    assert more(made, 1) == 0
    assert account(made, 1) == (0, PART + 5)


def test_a_cell_for_which_nothing_is_left_does_not_begin_and_ends_its_conversation() -> None:
    made = driver(2 * PART, children=1)
    assert [begin(made), more(made)] == [PART, PART]
    said = made.give(CellStarted(RUN, 1, 9, RequestId(1)))
    assert of(GiveFuel, said) == [GiveFuel(RUN, RequestId(1), 0)]
    assert [str(each.stop) for each in of(StopChild, said)] == ["budget: fuel"]
    assert [e.depth for e in made.events("cell_started")] == [0]
    made.give(FuelUsed(RUN, 2 * PART))
    said = made.give(CellStarted(RUN, 2, 9))
    assert [str(each.stop) for each in of(EndRun, said)] == ["budget: fuel"]


def test_a_cell_that_nobody_heard_the_end_of_is_charged_all_it_was_given() -> None:
    made = driver(10 * PART, children=2)
    begin(made, 1)
    begin(made, 2)
    more(made, 2)
    made.give(FuelUsed(RUN, None, RequestId(1)))
    assert account(made) == (PART, 2 * PART)
    made.give(ChildFinished(RUN, RequestId(2), "done"))
    assert account(made) == (3 * PART, 0)
    begin(made)
    (end,) = [e for e in events(made.give(RunEnded(RUN))) if e.kind == "run_ended"]
    assert end.data["fuel_spent"] == 4 * PART


def test_a_child_that_is_answered_for_in_its_cell_counts_what_that_was_granted() -> None:
    made = driver(10 * PART, children=1)
    begin(made, 1)
    made.give(FuelUsed(RUN, 7, RequestId(1)))
    begin(made, 1)
    more(made, 1)
    made.give(fired("child_deadline:1"))
    assert [e.data["fuel_spent"] for e in made.events("child_answered")] == [7 + 2 * PART]
    made.give(FuelUsed(RUN, 5, RequestId(1)))
    made.give(ChildFinished(RUN, RequestId(1), "late"))
    assert [e.data["fuel_spent"] for e in made.events("child_gone")] == [7 + 5]


@pytest.mark.threat("T-024")
def test_what_a_child_that_is_gone_used_takes_nothing_from_the_roots_cell() -> None:
    made = driver(10 * PART, children=1)
    begin(made)
    begin(made, 1)
    made.give(ChildFinished(RUN, RequestId(1), "done"))
    assert account(made) == (PART, PART)
    made.give(FuelUsed(RUN, 5, RequestId(1)), FuelUsed(RUN, None, RequestId(1)))
    assert account(made) == (PART + 5, PART)
    made.give(FuelUsed(RUN, 7))
    assert account(made) == (PART + 12, 0)


def test_a_conversation_that_was_stopped_gets_no_more_and_the_log_says_nothing_of_it() -> None:
    made = driver(10 * PART)
    begin(made)
    made.give(RunCancelled(RUN, StopReason.cancelled("by hand")))
    before = len(made.said)
    assert [more(made), more(made)] == [0, 0]
    assert events(made.said[before:]) == []
    assert account(made) == (0, PART)


def test_what_asks_without_a_cell_gets_nothing() -> None:
    made = driver(10 * PART)
    assert more(made) == 0
    begin(made)
    made.give(FuelUsed(RUN, 1))
    assert more(made) == 0
    assert account(made) == (1, 0)
