"""A loop that asks about each block before it runs: nothing runs unasked, and a refusal goes to the model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.loop import (
    AskLast,
    AskModel,
    AskSummary,
    Begin,
    BlockJudged,
    CellFinished,
    Conclusion,
    JudgeBlock,
    LoopEffect,
    LoopInput,
    ModelReplied,
    MustStop,
    RlmLoop,
    RunBlock,
)
from rlm_wasm.errors import CellRefused, GuestTrap, InternalError
from rlm_wasm.outcomes import SessionState, StopReason
from rlm_wasm.results import CellResult
from tests.support.core_facts import observation

REFUSED = BlockJudged(CellRefused("The block was refused and did not run: no shells"))
TWO = ModelReplied("One\n```repl\na\n```\n```repl\nb\n```")


def loop(dialect: str = "both", turns_max: int = 9, **more: int) -> RlmLoop:
    return RlmLoop("why?", (), dialect, observation(), turns_max, judges=True, **more)


def drive(subject: RlmLoop, *inputs: LoopInput) -> LoopEffect:
    effect: LoopEffect | None = None
    for each in inputs:
        (effect,) = subject.handle(each)
    assert effect is not None
    return effect


def shown(effect: LoopEffect) -> list[str]:
    assert isinstance(effect, AskModel)
    return [message.content for message in effect.messages]


def test_each_block_is_asked_about_and_runs_when_it_may() -> None:
    subject = loop()
    assert drive(subject, Begin(), TWO) == JudgeBlock("a")
    assert drive(subject, BlockJudged()) == RunBlock("a")
    assert drive(subject, CellFinished(CellResult(stdout="1\n"))) == JudgeBlock("b")
    assert drive(subject, BlockJudged()) == RunBlock("b")
    assert isinstance(drive(subject, CellFinished(CellResult())), AskModel)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_refusal_is_shown_and_the_blocks_behind_it_do_not_run(dialect: Dialect) -> None:
    contents = shown(drive(loop(dialect), Begin(), TWO, REFUSED))
    assert "The block was refused and did not run: no shells" in contents[-2]
    assert "1 later blocks of that reply did not run." in contents[-2]


def test_a_refused_block_leaves_the_session_as_it_was() -> None:
    subject = loop()
    kept = CellFinished(CellResult(variables=("x",)))
    drive(subject, Begin(), ModelReplied("```repl\nx = 1\n```"), BlockJudged(), kept)
    assert "REPL variables: ['x']" in shown(drive(subject, TWO, REFUSED))[-2]


def test_a_finish_as_text_behind_a_refused_block_does_not_count() -> None:
    subject = loop()
    drive(subject, Begin(), ModelReplied("```repl\nx = 1\n```\nFINAL_VAR(x)"))
    assert isinstance(drive(subject, REFUSED), AskModel)


def test_the_same_block_refused_again_and_again_is_no_progress() -> None:
    subject = loop(repeats_max=2)
    drive(subject, Begin())
    for _ in range(3):
        assert isinstance(drive(subject, ModelReplied("```repl\na\n```"), REFUSED), AskModel)
    ended = drive(subject, ModelReplied("```repl\na\n```"), REFUSED)
    assert ended == Conclusion(None, StopReason.no_progress(2))


def test_a_run_that_ends_while_it_is_asked_ends_with_the_best_there_is() -> None:
    subject = loop()
    drive(subject, Begin(), TWO)
    stop = StopReason.hook_stopped("enough")
    assert drive(subject, MustStop(stop)) == Conclusion("One", stop)
    assert subject.handle(BlockJudged()) == []


def test_a_judgement_that_nobody_asked_for_is_an_error_of_ours() -> None:
    subject = RlmLoop("why?", (), "both", observation(), 5)
    drive(subject, Begin())
    with pytest.raises(InternalError):
        subject.handle(BlockJudged())


_REPLIES = st.lists(
    st.sampled_from(["```repl\na\n```", "text", "FINAL_VAR(x)", "FINAL(7)", "```repl\nb\n```"]), max_size=4
).map("\n".join)
_ENDS = st.sampled_from(
    [
        CellResult(),
        CellResult(GuestTrap("x"), session_state=SessionState.RESTORED),
        CellResult(GuestTrap("x"), session_state=SessionState.LOST),
    ]
)


@pytest.mark.threat("T-350")
@settings(deadline=None)
@given(st.data(), st.sampled_from(list(Dialect)))
def test_nothing_runs_that_was_not_let_pass_just_before(data: st.DataObject, dialect: Dialect) -> None:
    subject, passed = loop(dialect, turns_max=4), False
    effect = drive(subject, Begin())
    while not isinstance(effect, Conclusion):
        match effect:
            case AskModel() | AskSummary() | AskLast():
                effect = drive(subject, ModelReplied(data.draw(_REPLIES)))
            case JudgeBlock(source):
                passed = data.draw(st.booleans())
                effect = drive(subject, BlockJudged() if passed else REFUSED)
                assert (effect == RunBlock(source)) is passed
            case RunBlock():
                assert passed
                passed = False
                effect = drive(subject, CellFinished(data.draw(_ENDS)))
