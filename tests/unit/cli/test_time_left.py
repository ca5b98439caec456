"""How long is left, on a clock of the test's."""

from __future__ import annotations

import pytest

from rlm_wasm.cli.time_left import TimeLeft, left_text


def planned(**parts: int) -> TimeLeft:
    left = TimeLeft()
    left.plan(list(parts.items()), 0.0)
    return left


def test_without_a_plan_nobody_knows() -> None:
    left = TimeLeft()
    left.advance("more", 1.0, 3.0)
    assert left.seconds(5.0) is None
    assert left.fraction == 0.0


def test_at_first_it_is_what_was_planned() -> None:
    left = planned(first=40, second=60)
    assert left.seconds(0.0) == 100
    left.advance("first", 0.1, 9.0)
    assert left.seconds(9.0) == 96


def test_then_it_is_what_was_planned_at_the_pace_of_this_machine() -> None:
    left = planned(first=40, second=60)
    left.advance("first", 0.5, 60.0)
    assert left.seconds(60.0) == 240
    left.advance("first", 1.0, 100.0)
    assert left.seconds(100.0) == 150
    assert left.fraction == 0.4


def test_parts_may_run_side_by_side() -> None:
    left = planned(first=40, second=60)
    left.advance("first", 0.5, 10.0)
    left.advance("second", 0.5, 25.0)
    assert left.seconds(25.0) == 25
    assert left.fraction == 0.5


def test_between_two_steps_it_counts_down_but_not_below_what_comes_after() -> None:
    left = planned(first=40, second=60)
    left.advance("first", 0.5, 20.0)
    assert left.seconds(25.0) == 75
    assert left.seconds(45.0) == 60
    assert left.seconds(500.0) == 60
    left.advance("first", 1.0, 500.0)
    assert left.seconds(500.0) == 750


def test_what_is_not_in_the_plan_counts_for_nothing() -> None:
    left = planned(first=40)
    left.advance("other", 1.0, 50.0)
    assert left.seconds(50.0) == 40
    assert left.fraction == 0.0


def test_at_the_end_nothing_is_left_and_a_new_plan_starts_again() -> None:
    left = planned(first=40)
    left.advance("first", 1.0, 50.0)
    assert left.seconds(50.0) == 0
    left.plan([("first", 10)], 60.0)
    assert (left.seconds(60.0), left.fraction) == (10, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "a few seconds left"),
        (9, "a few seconds left"),
        (14, "about 10 s left"),
        (59, "about 60 s left"),
        (60, "about 1 min left"),
        (100, "about 1.5 min left"),
        (299, "about 5 min left"),
    ],
)
def test_it_is_said_as_exactly_as_one_can_know(seconds: int, text: str) -> None:
    assert left_text(seconds) == text
