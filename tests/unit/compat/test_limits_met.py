"""What a run that ended is to the official library's callers: an answer, or the error of its name."""

from __future__ import annotations

import pytest

from rlm_wasm.compat import (
    BudgetExceededError,
    CancellationError,
    TimeoutExceededError,
    TokenLimitExceededError,
)
from rlm_wasm.compat.limits_met import answer_of
from rlm_wasm.errors import RunLimitReached, RunStopped
from rlm_wasm.ids import RunId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.results import RunResult

SPENT = {"cost_microdollars": 1_500_000, "input_tokens": 30, "output_tokens": 12}


def ended(stop: StopReason, answer: str | None = "best") -> RunResult:
    return RunResult(RunId("r"), answer, stop, SPENT, 2_500)


@pytest.mark.parametrize(
    "stop",
    [
        StopReason.finished(),
        StopReason.final(),
        StopReason.iterations(5, "run.turns_max"),
        StopReason.no_progress(4),
        StopReason.budget("iterations", 5),
    ],
)
def test_an_answer_is_returned_that_was_declared_or_that_its_turns_led_to(stop: StopReason) -> None:
    assert answer_of(ended(stop)) == "best"


@pytest.mark.parametrize(
    ("stop", "kind", "facts"),
    [
        (
            StopReason.budget("cost_microdollars", 2_000_000),
            BudgetExceededError,
            {"spent": 1.5, "budget": 2.0},
        ),
        (StopReason.budget("input_tokens", 40), TokenLimitExceededError, {"tokens_used": 42}),
        (StopReason.budget("output_tokens", 40), TokenLimitExceededError, {"token_limit": 40}),
        (StopReason.run_deadline(2_000), TimeoutExceededError, {"elapsed": 2.5, "timeout": 2.0}),
        (StopReason.cancelled(), CancellationError, {}),
        (StopReason.runtime_closed(), CancellationError, {}),
        (StopReason.budget("calls", 3), RunLimitReached, {"key": "budget.calls_max"}),
        (StopReason.model_failed("ProviderError", "no"), RunStopped, {}),
        (StopReason.events_lost("OSError: full"), RunStopped, {}),
    ],
)
def test_any_other_end_is_an_error_with_the_best_answer(
    stop: StopReason, kind: type[Exception], facts: dict[str, object]
) -> None:
    with pytest.raises(kind) as caught:
        answer_of(ended(stop))
    assert caught.value.partial_answer == "best"
    assert {name: getattr(caught.value, name) for name in facts} == facts


def test_turns_that_led_to_nothing_are_an_error() -> None:
    with pytest.raises(RunLimitReached, match="iterations_exhausted"):
        answer_of(ended(StopReason.iterations(5, "run.turns_max"), None))
