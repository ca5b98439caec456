"""How a cell and a run ended, in types: the texts, the way back from them, and what is raised."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import errors
from rlm_wasm.cli.exit_codes import of_outcome, of_run
from rlm_wasm.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestException,
    RunLimitReached,
    RunStopped,
)
from rlm_wasm.ids import RunId
from rlm_wasm.outcomes import Outcome, SessionState, StopKind, StopReason
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult, RunResult
from tests.support.machine_grade import POLICY_HERE

REASONS = [
    (StopReason.finished(), "finished"),
    (StopReason.final(), "final"),
    (StopReason.iterations(5, "run.turns_max"), "iterations_exhausted"),
    (StopReason.no_progress(5), "no_progress"),
    (StopReason.budget("calls", 5), "budget: calls"),
    (StopReason.budget("cell.requests", 5), "budget: cell.requests"),
    (StopReason.overdraft(("fuel", "output_tokens"), 5), "overdraft: fuel, output_tokens"),
    (StopReason.run_deadline(1000), "deadline: 1000 ms"),
    (StopReason.child_deadline(1000), "its deadline"),
    (StopReason.model_failed("ProviderError", "no: key"), "model_failed: ProviderError: no: key"),
    (StopReason.hook_stopped("no: such code"), "hook_stopped: no: such code"),
    (StopReason.hook_failed("ValueError"), "hook_failed: ValueError"),
    (StopReason.hook_timed_out(5), "hook_failed: no verdict within 5 ms"),
    (StopReason.cancelled(), "cancelled"),
    (StopReason.cancelled("enough: for today"), "enough: for today"),
    (StopReason.runtime_closed(), "the runtime was closed"),
    (StopReason.events_lost("OSError: full"), "events: OSError: full"),
    (StopReason.abandoned(), "nobody waits for it any more"),
    (StopReason.child_over(), "the child is over"),
    (StopReason.recording_over(), "the recording is over"),
    (StopReason.failed(), "failed"),
]


def run_result(stop: StopReason, *, unwritten: StopReason | None = None) -> RunResult:
    return RunResult(RunId("run"), "an answer", stop, {}, 5, unwritten=unwritten)


@pytest.mark.parametrize(("reason", "text"), REASONS, ids=[text for _, text in REASONS])
def test_each_reason_has_one_text_from_which_its_kind_is_read_back(reason: StopReason, text: str) -> None:
    assert str(reason) == text
    told = StopReason.parse(text)
    assert (told.kind, str(told), told.error) == (reason.kind, text, reason.error)
    assert told.logged(texts=False) == reason.logged(texts=False)


def test_every_kind_has_a_reason() -> None:
    assert {reason.kind for reason, _ in REASONS} == set(StopKind)


@given(st.text(max_size=40))
def test_whatever_a_log_says_is_a_reason_with_that_text(text: str) -> None:
    assert str(StopReason.parse(text)) == text


def test_a_log_without_texts_has_the_type_of_a_models_error_alone() -> None:
    failed = StopReason.model_failed("ProviderError", "it quotes: the prompt")
    assert failed.logged(texts=False) == "model_failed: ProviderError"
    assert failed.logged(texts=True) == str(failed)


def test_a_log_without_texts_has_nothing_of_a_hooks_words() -> None:
    stopped = StopReason.hook_stopped("it opens secret.txt")
    assert stopped.logged(texts=False) == "hook_stopped"
    assert StopReason.parse("hook_stopped").kind is StopKind.HOOK_STOPPED
    assert (stopped.cause, stopped.declared, stopped.leaves_a_question) == ("hook_stopped", False, False)


def test_whoever_cancels_a_run_cannot_make_it_a_limit_or_an_answer() -> None:
    for words in ("budget: calls", "finished", "deadline: 5 ms"):
        stop = StopReason.cancelled(words)
        assert not stop.is_limit
        assert not stop.declared
        assert stop.cause == "cancelled"


@pytest.mark.parametrize(
    "stop",
    [
        StopReason.iterations(5, "run.turns_max"),
        StopReason.budget("calls", 5),
        StopReason.overdraft(("fuel", "calls"), 5),
        StopReason.run_deadline(5),
    ],
    ids=str,
)
def test_a_run_that_met_a_limit_raises_which_key_and_number_it_was(stop: StopReason) -> None:
    with pytest.raises(RunLimitReached, match=str(stop)) as raised:
        run_result(stop).raise_for_outcome()
    section, _, name = (raised.value.key or "").partition(".")
    assert hasattr(getattr(Policy.open("strict"), section), name)
    assert raised.value.limit == 5
    assert raised.value.hint == f"raise `{raised.value.key}` in the policy"
    assert raised.value.partial_answer == "an answer"


def test_a_run_that_ended_early_raises_why() -> None:
    with pytest.raises(RunStopped, match="the run ended early: by hand") as raised:
        run_result(StopReason.cancelled("by hand")).raise_for_outcome()
    assert not isinstance(raised.value, RunLimitReached)
    assert raised.value.stop.kind is StopKind.CANCELLED


def test_a_declared_answer_is_returned_and_one_without_its_events_is_not() -> None:
    whole = run_result(StopReason.finished())
    assert whole.raise_for_outcome() is whole
    assert not whole.partial
    lost = StopReason.events_lost("OSError: full")
    with pytest.raises(RunStopped, match="events: OSError: full") as raised:
        run_result(StopReason.finished(), unwritten=lost).raise_for_outcome()
    assert raised.value.stop is lost


def test_a_cell_that_completed_is_returned() -> None:
    result = CellResult(result="42")
    assert result.raise_for_outcome() is result
    assert (result.outcome, result.session_state) == (Outcome.COMPLETED, SessionState.ALIVE)


def test_a_cell_that_met_a_limit_raises_its_error_with_key_and_number() -> None:
    slept = DeadlineExceeded("it slept", key="cell.sleep_ms_max", limit=5)
    result = CellResult(slept)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded) as raised:
            result.raise_for_outcome()
    assert raised.value is slept
    told = "".join(traceback.format_exception(slept))
    assert told.count("deadline_exceeded: cell.sleep_ms_max = 5") == 1
    assert str(slept) == "it slept"


def test_a_guests_exception_is_raised_as_one() -> None:
    with pytest.raises(GuestException, match="ValueError: bad") as raised:
        CellResult(GuestException("ValueError", "bad", "the traceback")).raise_for_outcome()
    assert (raised.value.type_name, raised.value.traceback) == ("ValueError", "the traceback")
    assert raised.value.key is None


def test_every_error_of_a_guest_has_an_outcome_of_its_own_and_its_keys_are_the_policys() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GuestError)
    ]
    kinds.remove(GuestError)
    assert {kind.outcome for kind in kinds} == set(Outcome) - {Outcome.COMPLETED}
    assert len(kinds) == len(Outcome) - 1
    policy = Policy.open("strict")
    for kind in kinds:
        assert bool(kind.keys) == kind.outcome.is_limit
        for key in kind.keys:
            section, _, name = key.partition(".")
            assert hasattr(getattr(policy, section), name)


def test_a_refused_budget_and_a_run_that_ended_by_it_name_the_same_key() -> None:
    refused = BudgetExceeded("calls", requested=1, available=0, limit=5)
    assert refused.key == StopReason.budget("calls", 5).key == "budget.calls_max"


def test_an_error_in_other_words_keeps_its_limit() -> None:
    error = FuelExhausted("all", limit=7)
    again = error.restated("all, and more", traceback="here")
    assert (type(again), again.message, again.traceback) == (FuelExhausted, "all, and more", "here")
    assert (again.key, again.limit) == ("cell.fuel_max", 7)


PAGE = (Path(__file__).parents[2] / "docs" / "outcomes.md").read_text()


def page_rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the page's rows under a heading, by the word that they are about."""
    section = PAGE.split(f"| `{heading}` |", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row] for row in rows}


def test_the_page_tells_every_end_with_its_keys_and_its_status() -> None:
    cells = page_rows("Outcome")
    kinds = {kind.outcome: kind for kind in GuestError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(cells) == set(Outcome)
    for outcome in Outcome:
        _, _, keys, status = cells[outcome]
        assert int(status) == of_outcome(outcome)
        # A result is cut at its cap, and no cell ends for it.
        known = set(kinds[outcome].keys) - {"cell.result_bytes_max"} if outcome in kinds else set()
        assert set(re.findall(r"`([\w.]+)`", keys)) == known
    assert set(page_rows("SessionState")) == set(SessionState)
    runs = page_rows("StopKind")
    assert set(runs) == set(StopKind)
    for reason, _ in REASONS:
        if status := runs[reason.kind][3]:
            assert int(status[:1]) == of_run(reason, partial=not reason.declared)


@pytest.mark.guest
@pytest.mark.usefixtures("guest")
def test_the_example_of_the_page_names_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    example = example.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    exec(compile(example, "docs/outcomes.md", "exec"), {})
    limit = Policy.builtin(POLICY_HERE).cell.sleep_ms_max
    assert capsys.readouterr().out == f"deadline_exceeded cell.sleep_ms_max {limit}\n"
