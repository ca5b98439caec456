"""A loop that wants a typed answer: what does not fit ends nothing, and goes back with its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.loop import (
    AnswerChecked,
    AskModel,
    Begin,
    CellFinished,
    CheckAnswer,
    Conclusion,
    LoopEffect,
    LoopInput,
    ModelReplied,
    MustStop,
    RlmLoop,
    RunBlock,
)
from rlm_wasm.conversation.typed_answer import AnswerForm, FittingAnswer, UnfitAnswer
from rlm_wasm.errors import InternalError
from rlm_wasm.outcomes import StopKind, StopReason
from rlm_wasm.results import CellResult
from tests.support.core_facts import observation

SCHEMA = '{"type":"integer"}'
WRONG = AnswerChecked(UnfitAnswer(("$.items[2].price: a string, where number is wanted",)))
CODE = ModelReplied("Now:\n```repl\nFINAL(x)\n```\n```repl\nlater()\n```")


def loop(dialect: str = "both", turns_max: int = 9, **more: object) -> RlmLoop:
    return RlmLoop("why?", (), dialect, observation(), turns_max, schema=SCHEMA, **more)  # type: ignore[arg-type]


def drive(subject: RlmLoop, *inputs: LoopInput) -> LoopEffect:
    effect: LoopEffect | None = None
    for each in inputs:
        (effect,) = subject.handle(each)
    assert effect is not None
    return effect


def declared(text: str = "7", *, is_json: bool = True) -> CellFinished:
    return CellFinished(CellResult(stdout="out\n", variables=("x",)), text, answer_is_json=is_json)


def last_shown(effect: LoopEffect) -> str:
    assert isinstance(effect, AskModel)
    return effect.messages[-2].content


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_model_is_told_the_schema_before_how_to_finish(dialect: Dialect) -> None:
    effect = drive(loop(dialect), Begin())
    assert isinstance(effect, AskModel)
    system = effect.messages[0].content
    assert f"\n<schema>\n{SCHEMA}\n</schema>\n" in system
    assert system.index("</schema>") < system.index("To finish")


def test_without_one_it_is_told_nothing_and_nothing_is_checked() -> None:
    subject = RlmLoop("why?", (), "both", observation(), 9)
    effect = drive(subject, Begin())
    assert isinstance(effect, AskModel)
    assert "schema" not in effect.messages[0].content
    assert drive(subject, CODE, declared("{}")) == Conclusion("{}", StopReason.finished())


@pytest.mark.parametrize(
    ("given", "form"), [(declared(), AnswerForm.JSON), (declared(is_json=False), AnswerForm.TEXT)]
)
def test_an_answer_is_checked_and_ends_the_run_as_a_value(given: CellFinished, form: AnswerForm) -> None:
    subject = loop()
    assert drive(subject, Begin(), CODE, given) == CheckAnswer("7", form)
    end = drive(subject, AnswerChecked(FittingAnswer(7)))
    assert end == Conclusion("7", StopReason.finished(), 7, checked=True)
    assert subject.handle(MustStop(StopReason.cancelled("late"))) == []


def test_one_that_does_not_fit_goes_back_with_what_the_cell_showed_and_the_place() -> None:
    subject = loop()
    shown = last_shown(drive(subject, Begin(), CODE, declared(), WRONG))
    assert "REPL output:\n\nout" in shown
    assert "REPL variables: ['x']" in shown
    assert "- $.items[2].price: a string, where number is wanted\n" in shown
    assert "1 later blocks of that reply did not run." in shown
    assert isinstance(drive(subject, CODE), RunBlock)


def test_a_finish_as_text_is_checked_as_written() -> None:
    subject = loop("final")
    assert drive(subject, Begin(), ModelReplied("FINAL(seven)")) == CheckAnswer("seven", AnswerForm.WRITTEN)
    assert last_shown(drive(subject, WRONG)).startswith("The answer was not accepted, because")


def test_the_turns_bound_how_often_and_the_last_answer_is_the_partial_one_without_a_value() -> None:
    subject = loop(turns_max=2)
    end = drive(subject, Begin(), CODE, declared("1"), WRONG, CODE, declared("2"), WRONG)
    assert isinstance(end, Conclusion)
    assert (end.answer, end.value, end.checked, end.partial) == ("2", None, False, True)
    assert end.stop.kind is StopKind.ITERATIONS
    assert end.problems == ("$.items[2].price: a string, where number is wanted",)


def test_the_same_wrong_answer_again_and_again_is_no_progress() -> None:
    subject = loop(repeats_max=2, turns_max=50)
    drive(subject, Begin())
    ends = [drive(subject, CODE, declared(), WRONG) for _ in range(4)]
    assert isinstance(ends[-1], Conclusion)
    assert ends[-1].stop.kind is StopKind.REPEATS


def test_a_run_that_must_stop_while_it_checks_ends_with_what_it_had() -> None:
    subject = loop()
    end = drive(
        subject,
        Begin(),
        CODE,
        declared("1"),
        WRONG,
        CODE,
        declared("2"),
        MustStop(StopReason.cancelled("no")),
    )
    assert isinstance(end, Conclusion)
    assert (end.answer, end.checked) == ("1", False)


def test_a_verdict_that_nobody_asked_for_is_a_bug() -> None:
    with pytest.raises(InternalError):
        drive(loop(), Begin(), WRONG)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["code", "text", "talk", "fit", "wrong", "stop"]), max_size=40))
def test_whatever_comes_a_value_is_one_that_was_just_checked(steps: list[str]) -> None:
    """Of a loop driven at random: it ends checked right behind a fitting answer, and at no other time."""
    subject, fitted = loop("final", turns_max=5), False
    (effect,) = subject.handle(Begin())
    for step in steps:
        match effect:
            case Conclusion():
                break
            case CheckAnswer():
                fitted = step == "fit"
                (effect,) = subject.handle(AnswerChecked(FittingAnswer(7)) if fitted else WRONG)
            case RunBlock():
                (effect,) = subject.handle(declared() if step != "talk" else CellFinished(CellResult()))
            case _:
                reply = {"text": "FINAL(7)", "talk": "hm"}.get(step, "```repl\nFINAL(7)\n```")
                stop = MustStop(StopReason.cancelled("now"))
                (effect,) = subject.handle(stop if step == "stop" else ModelReplied(reply))
    if isinstance(effect, Conclusion):
        assert effect.checked is fitted
        assert (effect.value, effect.partial) == ((7, False) if fitted else (None, True))
