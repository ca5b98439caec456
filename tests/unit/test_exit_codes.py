"""What the exit status of a run and of a cell says."""

from __future__ import annotations

import pytest

from rlm_wasm.cli.exit_codes import INTERRUPTED, ExitCode, of_outcome, of_run
from rlm_wasm.ids import RunId
from rlm_wasm.outcomes import Outcome, StopReason
from rlm_wasm.results import RunResult

UNWRITTEN = StopReason.events_lost("OSError: full")


@pytest.mark.parametrize(
    ("stop", "unwritten", "reason", "status"),
    [
        (StopReason.finished(), None, "finished", ExitCode.DONE),
        (StopReason.final(), UNWRITTEN, "events: OSError: full", ExitCode.GUEST),
        (UNWRITTEN, UNWRITTEN, "events: OSError: full", ExitCode.GUEST),
        (StopReason.cancelled(INTERRUPTED), None, "interrupted", ExitCode.INTERRUPTED),
        (
            StopReason.cancelled(INTERRUPTED),
            UNWRITTEN,
            "interrupted; events: OSError: full",
            ExitCode.INTERRUPTED,
        ),
        (
            StopReason.run_deadline(5),
            UNWRITTEN,
            "deadline: 5 ms; events: OSError: full",
            ExitCode.LIMIT,
        ),
        (StopReason.iterations(5, "run.turns_max"), None, "iterations_exhausted", ExitCode.LIMIT),
        (StopReason.budget("calls", 5), None, "budget: calls", ExitCode.LIMIT),
        (StopReason.overdraft(("fuel", "cost"), 5), None, "overdraft: fuel, cost", ExitCode.LIMIT),
        (
            StopReason.model_failed("ProviderError", "no"),
            None,
            "model_failed: ProviderError: no",
            ExitCode.GUEST,
        ),
        # Whoever cancels may say anything: it is their word, and no limit.
        (StopReason.cancelled("budget: calls"), None, "budget: calls", ExitCode.GUEST),
    ],
)
def test_an_event_that_could_not_be_written_does_not_hide_what_ended_the_run(
    stop: StopReason, unwritten: StopReason | None, reason: str, status: ExitCode
) -> None:
    result = RunResult(RunId("run"), None, stop, {}, 0, unwritten=unwritten)
    assert result.reason == reason
    assert result.partial == (status is not ExitCode.DONE)
    assert of_run(result.stop, partial=result.partial) is status


def test_every_outcome_of_a_cell_has_its_status() -> None:
    assert {of_outcome(outcome) for outcome in Outcome} == {
        ExitCode.DONE,
        ExitCode.GUEST,
        ExitCode.LIMIT,
        ExitCode.VIOLATION,
        ExitCode.INTERRUPTED,
    }
    assert all((of_outcome(outcome) is ExitCode.LIMIT) == outcome.is_limit for outcome in Outcome)
