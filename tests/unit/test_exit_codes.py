"""What the exit status of a run says."""

from __future__ import annotations

import pytest

from rlm_wasm.cli import exit_codes
from rlm_wasm.cli.exit_codes import ExitCode, of_run
from rlm_wasm.engine import run


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("interrupted", ExitCode.INTERRUPTED),
        ("interrupted; events: OSError: full", ExitCode.INTERRUPTED),
        ("deadline: 5 ms; events: OSError: full", ExitCode.LIMIT),
        ("events: OSError: full", ExitCode.GUEST),
    ],
)
def test_an_event_that_could_not_be_written_does_not_hide_what_ended_the_run(
    reason: str, status: ExitCode
) -> None:
    assert of_run(partial=True, reason=reason) is status


def test_the_command_line_knows_the_reason_by_the_word_that_the_runtime_uses() -> None:
    """It has a copy, because importing the runtime takes longer than most of what it does."""
    assert exit_codes.EVENTS_REASON == run.EVENTS_REASON
