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
    RequestState,
    RequestStep,
    TimedOut,
    error_of,
    next_state,
)


def test_an_answered_request_has_nowhere_to_go() -> None:
    assert TRANSITIONS[RequestState.ANSWERED] == {}


def test_every_other_state_can_be_answered_at_once() -> None:
    for state in set(RequestState) - {RequestState.ANSWERED}:
        assert TRANSITIONS[state][RequestStep.ANSWER] is RequestState.ANSWERED


def test_every_attempt_reserves_first() -> None:
    """The only way into DISPATCHED is from QUEUED, and the only way into QUEUED is to reserve."""
    ways = [(a, step, b) for a, steps in TRANSITIONS.items() for step, b in steps.items()]
    assert {(a, step) for a, step, b in ways if b is RequestState.DISPATCHED} == {
        (RequestState.QUEUED, RequestStep.DISPATCH)
    }
    assert {step for _, step, b in ways if b is RequestState.QUEUED} == {RequestStep.RESERVE}


@pytest.mark.parametrize(("state", "step"), list(product(RequestState, RequestStep)))
def test_a_step_that_is_not_in_the_table_is_our_bug(state: RequestState, step: RequestStep) -> None:
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
