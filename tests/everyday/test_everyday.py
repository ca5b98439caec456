"""What models write every day: each cell does what it should, or is known to fail and says why."""

from __future__ import annotations

import pytest

from tests.everyday.trial import Trial, failing, run_all, trials
from tests.support.images import made_data

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

TRIALS = trials()


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str | None]:
    """Why each trial failed, or None. All of them take seconds, so one cannot be had alone."""
    made_data()
    return run_all(TRIALS)


def test_there_are_enough_of_them_and_what_fails_is_one_of_them() -> None:
    assert len(TRIALS) >= 200
    assert failing().keys() <= {trial.title for trial in TRIALS}


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.title) for trial in TRIALS])
def test_a_cell_does_what_is_expected_of_it(trial: Trial, verdicts: dict[str, str | None]) -> None:
    verdict, reason = verdicts[trial.title], failing().get(trial.title)
    if reason is None:
        assert verdict is None, verdict
    else:
        assert verdict is not None, "it works now: take it out of tests/everyday/expectations.toml"
