"""One request's life."""

from __future__ import annotations

from itertools import product

import pytest

from rlm_wasm.errors import InternalError, ProviderError, QueryCancelled, QueryTimeout
from rlm_wasm.scheduler.request import (
    TRANSITIONS,
    Cancelled,
    Completed,
    Denied,
    Failed,
    State,
    Step,
    TimedOut,
    error_of,
    next_state,
)


def test_an_answered_request_has_nowhere_to_go() -> None:
    assert TRANSITIONS[State.ANSWERED] == {}


def test_every_other_state_can_be_answered_at_once() -> None:
    for state in set(State) - {State.ANSWERED}:
        assert TRANSITIONS[state][Step.ANSWER] is State.ANSWERED


def test_every_attempt_reserves_first() -> None:
    """The only way into DISPATCHED is from QUEUED, and the only way into QUEUED is to reserve."""
    ways = [(a, step, b) for a, steps in TRANSITIONS.items() for step, b in steps.items()]
    assert {(a, step) for a, step, b in ways if b is State.DISPATCHED} == {(State.QUEUED, Step.DISPATCH)}
    assert {step for _, step, b in ways if b is State.QUEUED} == {Step.RESERVE}


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)))
def test_a_step_that_is_not_in_the_table_is_our_bug(state: State, step: Step) -> None:
    if step in TRANSITIONS[state]:
        assert next_state(state, step) is TRANSITIONS[state][step]
    else:
        with pytest.raises(InternalError):
            next_state(state, step)


def test_each_response_that_is_no_answer_is_a_typed_error() -> None:
    failure = ProviderError("down")
    assert error_of(Completed("text", None)) is None
    assert error_of(Failed(failure)) is failure
    assert error_of(Denied(failure)) is failure
    assert isinstance(error_of(TimedOut(5)), QueryTimeout)
    assert isinstance(error_of(Cancelled("why")), QueryCancelled)
    statuses = {r.status for r in (Completed, Failed, Denied, TimedOut, Cancelled)}
    assert statuses == {"completed", "failed", "denied", "timed_out", "cancelled"}
