"""What a hook said of a cell, as the scheduler takes it: an event, and perhaps the run's end."""

from __future__ import annotations

import pytest

from rlm_wasm.outcomes import StopKind, StopReason
from rlm_wasm.scheduler.effects import EndRun
from rlm_wasm.scheduler.inputs import CellJudged, CellVerdict, RunCancelled, RunEnded
from tests.support.core_facts import RUN, started
from tests.support.scheduler_driver import Driver, events, of


def driver(*, texts: bool = True) -> Driver:
    made = Driver()
    made.give(started(texts=texts))
    return made


@pytest.mark.parametrize("verdict", ["passed", "refused"])
def test_the_run_goes_on_with_one_event(verdict: CellVerdict) -> None:
    subject = driver()
    said = subject.give(CellJudged(RUN, 1, 9, verdict, "why not"))
    assert not of(EndRun, said)
    (event,) = subject.events("cell_judged")
    assert event.data == {
        "cell": 1, "verdict": verdict, "source_bytes": 9, "reason_bytes": 7, "reason": "why not",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "kind", "words"),
    [
        ("stopped", StopKind.HOOK_STOPPED, "hook_stopped: why"),
        ("failed", StopKind.HOOK_FAILED, "hook_failed: KeyError"),
        ("timed_out", StopKind.HOOK_FAILED, "hook_failed: no verdict within 10000 ms"),
    ],
)
def test_the_run_ends_for_that_reason_once(verdict: CellVerdict, kind: StopKind, words: str) -> None:
    subject = driver()
    (end,) = of(EndRun, subject.give(CellJudged(RUN, 1, 9, verdict, "why", "KeyError")))
    assert (end.stop.kind, str(end.stop)) == (kind, words)
    assert subject.give(CellJudged(RUN, 2, 9, verdict, "why", "KeyError")) == []
    assert [event.data for event in subject.events("run_stopping")] == [{"cause": kind, "reason": words}]
    subject.give(RunEnded(RUN, end.stop))
    assert subject.events("run_ended")[0].data["stopped"] == words


def test_without_texts_no_event_has_the_hooks_words() -> None:
    subject = driver(texts=False)
    stop = StopReason.hook_stopped("it opens secret.txt")
    subject.give(CellJudged(RUN, 1, 9, "stopped", "it opens secret.txt"))
    subject.give(RunEnded(RUN, stop))
    assert "secret" not in repr(events(subject.said))
    assert subject.events("run_stopping")[0].data["reason"] == "hook_stopped"
    assert subject.events("run_ended")[0].data["stopped"] == "hook_stopped"


def test_of_a_run_that_ends_already_nothing_is_told() -> None:
    subject = driver()
    subject.give(RunCancelled(RUN, StopReason.cancelled()))
    assert subject.give(CellJudged(RUN, 1, 9, "stopped", "why")) == []
