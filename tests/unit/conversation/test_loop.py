"""The RLM loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.conversation import observations
from rlm_wasm.conversation.loop import (
    AskLast,
    AskModel,
    AskSummary,
    Begin,
    CellFinished,
    Conclusion,
    ContextFacts,
    LoopEffect,
    LoopInput,
    ModelFailed,
    ModelReplied,
    MustStop,
    RlmLoop,
    RunBlock,
)
from rlm_wasm.conversation.observations import format_observation
from rlm_wasm.conversation.ran_cell import RanCell
from rlm_wasm.errors import (
    BudgetExceeded,
    FuelExhausted,
    GuestException,
    GuestTrap,
    InternalError,
    NoText,
    ProviderError,
    SourceExceeded,
    WindowExceeded,
    WorkerLost,
)
from rlm_wasm.limits import ObservationLimits
from rlm_wasm.outcomes import SessionState, StopReason
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.messages import FinishReason
from rlm_wasm.scheduler.pricing import prompt_bytes
from tests.support.core_facts import observation

RESTORED = CellResult(GuestTrap("x"), session_state=SessionState.RESTORED)
LOST = CellResult(GuestTrap("x"), session_state=SessionState.LOST)
LATE = MustStop(StopReason.run_deadline(5))
CONTEXT = (ContextFacts("context", "str", 10, "characters", "0123456789"),)


def loop(dialect: str = "answer", iterations_max: int = 5, *, lenient: bool = False) -> RlmLoop:
    return RlmLoop("why?", CONTEXT, dialect, observation(), iterations_max, lenient_fences=lenient)


def drive(subject: RlmLoop, *inputs: LoopInput) -> LoopEffect:
    """Give the inputs and return the last effect."""
    effects: list[LoopEffect] = []
    for given_input in inputs:
        effects = subject.handle(given_input)
        assert len(effects) == 1
    return effects[0]


def said(effect: LoopEffect) -> list[str]:
    assert isinstance(effect, AskModel)
    return [message.content for message in effect.messages]


def block(source: str) -> ModelReplied:
    return ModelReplied(f"Look:\n```repl\n{source}\n```")


def done(stdout: str = "", finish: str | None = None) -> CellFinished:
    return CellFinished(CellResult(stdout=stdout), finish)


def drafted(draft: str | None) -> CellFinished:
    return CellFinished(CellResult(draft=draft))


def test_the_model_first_gets_the_rules_the_question_and_the_turn() -> None:
    effect = drive(loop(), Begin())
    assert isinstance(effect, AskModel)
    assert [m.role for m in effect.messages] == ["system", "user", "user"]
    assert "why?" in effect.messages[1].content
    assert effect.messages[2].content.endswith("Turn 1/5:")


def test_code_runs_and_what_it_did_comes_back() -> None:
    subject = loop()
    assert drive(subject, Begin(), block("print(1)")) == RunBlock("print(1)")
    contents = said(drive(subject, done("1\n")))
    assert contents[2:] == ["Look:\n```repl\nprint(1)\n```", "REPL output:\n\n1\n", "Turn 2/5:"]


def test_only_the_current_turn_line_is_sent() -> None:
    subject = loop()
    effect = drive(subject, Begin(), block("a"), done(), block("b"), done())
    assert sum(content.startswith("Turn ") for content in said(effect)) == 1
    assert said(effect)[-1] == "Turn 3/5:"


def test_all_blocks_of_a_reply_run_in_order() -> None:
    subject = loop()
    reply = ModelReplied("```repl\na\n```\n```repl\nb\n```")
    assert drive(subject, Begin(), reply) == RunBlock("a")
    assert drive(subject, done("1\n")) == RunBlock("b")
    assert said(drive(subject, done("2\n")))[-2] == (
        "REPL output (block 1):\n\n1\n\n\nREPL output (block 2):\n\n2\n"
    )


def test_a_block_after_a_failed_one_still_runs() -> None:
    subject = loop()
    failed = CellFinished(CellResult(GuestException("NameError", "x")))
    assert drive(subject, Begin(), ModelReplied("```repl\na\n```\n```repl\nb\n```"), failed) == RunBlock("b")


def test_a_finish_stops_at_once_and_later_blocks_do_not_run() -> None:
    subject = loop()
    reply = ModelReplied("```repl\na\n```\n```repl\nb\n```")
    assert drive(subject, Begin(), reply, done(finish="42")) == Conclusion("42", StopReason.finished())
    assert subject.handle(done()) == []
    assert subject.handle(LATE) == []


def test_a_finish_counts_even_if_the_cell_ended_badly_after_it() -> None:
    ended = CellFinished(CellResult(FuelExhausted("x")), "42")
    assert drive(loop(), Begin(), block("a"), ended) == Conclusion("42", StopReason.finished())


def test_an_empty_answer_is_an_answer() -> None:
    assert drive(loop(), Begin(), block("a"), done(finish="")) == Conclusion("", StopReason.finished())


def test_blocks_behind_a_lost_session_do_not_run_and_the_model_is_told() -> None:
    subject = loop()
    lost = CellFinished(RESTORED)
    effect = drive(subject, Begin(), ModelReplied("```repl\na\n```\n```repl\nb\n```"), lost)
    assert "1 later blocks of that reply did not run" in said(effect)[-2]


def test_a_session_that_could_not_be_opened_is_not_said_to_be_back_where_it_was() -> None:
    gone = CellFinished(CellResult(WorkerLost("no process"), session_state=SessionState.LOST))
    shown = said(drive(loop(), Begin(), block("a"), gone))[-2]
    assert "had to start anew" in shown
    assert "back to where it was" not in shown


def test_the_variables_shown_are_those_that_the_session_has() -> None:
    subject = loop(iterations_max=9)
    kept = CellFinished(CellResult(variables=("x", "y")))
    assert "REPL variables: ['x', 'y']" in said(drive(subject, Begin(), block("a"), kept))[-2]
    assert "REPL variables: ['x', 'y']" in said(drive(subject, block("b"), CellFinished(RESTORED)))[-2]
    unseen = CellFinished(CellResult(SourceExceeded("too long")))
    assert "REPL variables" not in said(drive(subject, block("c"), unseen))[-2]
    assert "REPL variables: ['x', 'y']" in said(drive(subject, block("d"), CellFinished(RESTORED)))[-2]
    assert "REPL variables" not in said(drive(subject, block("e"), CellFinished(LOST)))[-2]
    assert "REPL variables" not in said(drive(subject, block("f"), CellFinished(RESTORED)))[-2]


def test_a_reply_without_code_is_nudged() -> None:
    contents = said(drive(loop(), Begin(), ModelReplied("I think it is 42.")))
    assert contents[-3] == "I think it is 42."
    assert "No ```repl block" in contents[-2]


def test_a_reply_cut_off_in_its_code_is_told_so_and_nothing_runs() -> None:
    contents = said(drive(loop(), Begin(), ModelReplied("```repl\nfor x in")))
    assert "was not closed" in contents[-2]
    assert "No ```repl block" not in contents[-2]


def test_a_whole_program_without_its_fence_runs_if_the_model_had_ended() -> None:
    reply = "```repl\nFINAL(1)"
    assert drive(loop(), Begin(), ModelReplied(reply, FinishReason.STOP)) == RunBlock("FINAL(1)")
    for finish in (FinishReason.LENGTH, None):
        effect = drive(loop(), Begin(), ModelReplied(reply, finish))
        assert "was not closed" in said(effect)[-2]
        assert ("was cut off" in said(effect)[-2]) == (finish is FinishReason.LENGTH)


def test_a_reply_that_a_cap_cut_off_is_told_so_whatever_it_holds() -> None:
    effect = drive(loop(), Begin(), ModelReplied("I think that", FinishReason.LENGTH))
    assert "was cut off" in said(effect)[-2]
    subject = loop()
    effect = drive(subject, Begin(), ModelReplied("```repl\na\n```\nand th", FinishReason.LENGTH))
    assert effect == RunBlock("a")
    assert said(drive(subject, done("1\n")))[-2].startswith("REPL output:\n\n1\n\n\nYour reply was cut off")
    effect = drive(loop("final"), Begin(), ModelReplied("FINAL(42)\nand th", FinishReason.LENGTH))
    assert effect == Conclusion("42", StopReason.final())
    assert isinstance(
        drive(loop("final"), Begin(), ModelReplied("FINAL(it is", FinishReason.LENGTH)), AskModel
    )


def test_a_reply_that_ends_within_a_thought_is_told_so() -> None:
    effect = drive(
        loop("both"), Begin(), ModelReplied("<think>\nFINAL(a guess)\n```repl\nx\n```", FinishReason.STOP)
    )
    assert "ended within a thought" in said(effect)[-2]
    assert drive(loop("both"), Begin(), ModelReplied("<think>FINAL(x)"), LATE) == Conclusion(None, LATE.stop)


def test_a_final_answer_beside_code_that_was_cut_off_is_not_accepted() -> None:
    subject = loop("final")
    effect = drive(subject, Begin(), ModelReplied("FINAL(made up)\n```repl\nfor x in", FinishReason.LENGTH))
    assert "was not accepted" in said(effect)[-2]


def test_a_final_answer_as_text_is_the_best_there_is_where_it_is_no_finish() -> None:
    effect = drive(loop("answer"), Begin(), ModelReplied("I looked.\nThe answer is FINAL(42)."), LATE)
    assert effect == Conclusion("42", LATE.stop)


def test_turns_are_bounded_and_the_last_reply_is_the_best_there_is() -> None:
    subject = loop(iterations_max=2)
    effect = drive(subject, Begin(), ModelReplied("one"), ModelReplied("two"))
    assert effect == Conclusion("two", StopReason.iterations(2, "run.turns_max"))


@pytest.mark.parametrize(
    ("before", "best"),
    [
        ([], None),
        ([Begin()], None),
        ([Begin(), block("a")], "Look:"),
        ([Begin(), ModelReplied("```repl\na\n```")], None),
        ([Begin(), ModelReplied("It is 7."), ModelReplied("```repl\na\n```")], "It is 7."),
        ([Begin(), ModelReplied("It is 7."), block("a"), drafted("8")], "8"),
        ([Begin(), block("a"), drafted("8"), ModelReplied("It is 7.")], "8"),
        ([Begin(), block("a"), drafted("8"), block("b"), drafted("9")], "9"),
    ],
)
def test_a_run_that_is_stopped_gives_the_best_there_is(before: list[LoopInput], best: str | None) -> None:
    assert drive(loop(), *before, LATE) == Conclusion(best, LATE.stop)


@pytest.mark.parametrize("dialect", ["answer", "final", "both"])
@pytest.mark.parametrize("reply", ["```repl\nx = 1\n```", "```python\nx = 1\n```", "x = 1", "```repl\nx = 1"])
def test_code_is_never_the_answer(dialect: str, reply: str) -> None:
    """Whatever ends the run: the turns, the budget, a deadline, the model, the operator."""
    for stop in (
        MustStop(StopReason.budget("calls", 5)),
        MustStop(StopReason.cancelled("enough")),
        ModelFailed(ProviderError("no key")),
        None,
    ):
        subject = loop(dialect, iterations_max=2)
        (effect,) = subject.handle(Begin())
        turns = 0
        while not isinstance(effect, Conclusion):
            if isinstance(effect, RunBlock):
                given: LoopInput = done("1\n")
            elif turns == 1 and stop is not None:
                given = stop
            else:
                given, turns = ModelReplied(reply), turns + 1
            (effect,) = subject.handle(given)
        assert (effect.answer, effect.partial) == (None, True)


def test_a_spent_budget_is_named_by_its_dimension() -> None:
    error = BudgetExceeded("calls", requested=1, available=0, limit=5)
    effect = drive(loop(), Begin(), ModelReplied("It is 7."), ModelFailed(error))
    assert effect == Conclusion("It is 7.", StopReason.budget("calls", 5))


def asking(dialect: str = "both", iterations_max: int = 5) -> RlmLoop:
    return RlmLoop("why?", CONTEXT, dialect, observation(), iterations_max, asks_last=True)


SPENT = MustStop(StopReason.budget("calls", 5))


def test_a_run_that_a_budget_ends_asks_once_for_the_best_answer() -> None:
    subject = asking()
    effect = drive(subject, Begin(), block("a"), done("17\n"), SPENT)
    assert isinstance(effect, AskLast)
    assert effect.stop == SPENT.stop
    contents = [message.content for message in effect.messages]
    assert contents[-2:-1] == ["REPL output:\n\n17\n"]
    assert "budget: calls" in contents[-1]
    assert not any(content.startswith("Turn") for content in contents)
    assert drive(subject, ModelReplied("It is 17.")) == Conclusion("It is 17.", SPENT.stop)
    assert subject.handle(done()) == []


@pytest.mark.parametrize(
    ("reply", "best"),
    [
        (ModelReplied("FINAL(17)"), "17"),
        (ModelReplied("<think>hm</think>It is 17."), "It is 17."),
        (ModelReplied("```repl\nanswer['content'] = 17\n```"), "Look:"),
        (ModelReplied(""), "Look:"),
        (ModelFailed(BudgetExceeded("calls", requested=1, available=0, limit=5)), "Look:"),
        (ModelFailed(NoText("nothing")), "Look:"),
        (MustStop(StopReason.cancelled("enough")), "Look:"),
    ],
)
def test_whatever_becomes_of_the_last_question_the_run_ends_for_its_budget(
    reply: LoopInput, best: str
) -> None:
    effect = drive(asking(), Begin(), block("a"), done("17\n"), SPENT, reply)
    assert effect == Conclusion(best, SPENT.stop)


def test_turns_that_are_used_up_end_with_the_question_too_and_it_sees_the_last_output() -> None:
    effect = drive(asking(iterations_max=1), Begin(), block("a"), done("17\n"))
    assert isinstance(effect, AskLast)
    assert effect.stop == StopReason.iterations(1, "run.turns_max")
    assert effect.observed_bytes == len(effect.messages[-2].content)
    assert "17" in effect.messages[-2].content


def test_a_turn_that_the_budget_refuses_ends_with_the_question_too() -> None:
    refused = ModelFailed(BudgetExceeded("output_tokens", requested=9, available=0, limit=5))
    effect = drive(asking(), Begin(), block("a"), done("17\n"), refused)
    assert isinstance(effect, AskLast)
    assert (effect.stop, effect.observed_bytes) == (StopReason.budget("output_tokens", 5), 0)


def test_of_a_reply_that_was_stopped_the_last_question_sees_what_ran() -> None:
    reply = ModelReplied("```repl\na\n```\n```repl\nb\n```")
    effect = drive(asking(), Begin(), reply, done("17\n"), MustStop(StopReason.overdraft(("fuel",), 9)))
    assert isinstance(effect, AskLast)
    assert "17" in effect.messages[-2].content
    assert effect.observed_bytes == len(effect.messages[-2].content)


def test_an_observation_beyond_its_budget_is_not_shown_last_either() -> None:
    stop = MustStop(StopReason.budget("observation_bytes", 9))
    effect = drive(asking(), Begin(), block("a"), done("17\n"), stop)
    assert isinstance(effect, AskLast)
    assert effect.observed_bytes == 0
    assert not [m for m in effect.messages if "17" in m.content]


@pytest.mark.parametrize(
    ("before", "stop"),
    [
        ([Begin()], SPENT),  # nothing is known
        ([Begin(), block("a"), drafted("8")], SPENT),  # the model has said what it would answer
        ([Begin(), block("a"), done()], LATE),
        ([Begin(), block("a"), done()], MustStop(StopReason.cancelled("enough"))),
        ([Begin(), block("a"), done()], MustStop(StopReason.runtime_closed())),
    ],
)
def test_nobody_is_asked_last_where_nothing_is_known_or_no_time_is_left(
    before: list[LoopInput], stop: MustStop
) -> None:
    assert isinstance(drive(asking(), *before, stop), Conclusion)


def stubborn(repeats_max: int, *, asks: bool = False) -> RlmLoop:
    return RlmLoop("why?", CONTEXT, "both", observation(), 50, asks_last=asks, repeats_max=repeats_max)


def test_a_model_that_gets_no_further_is_told_so_and_then_stopped() -> None:
    subject = stubborn(4)
    drive(subject, Begin())
    turns = [said(drive(subject, block("a"), done("1\n")))[-2] for _ in range(5)]
    assert ["the same" in shown for shown in turns] == [False, False, True, True, True]
    assert "the same 3 times" in turns[2]
    assert "After 2 more the task ends." in turns[2]
    assert "Once more ends the task." in turns[4]
    assert drive(subject, block("a"), done("1\n")) == Conclusion("Look:", StopReason.no_progress(4))
    assert StopReason.no_progress(4).is_limit


def test_a_model_that_gets_no_further_is_asked_for_its_best_answer() -> None:
    subject = stubborn(1, asks=True)
    effect = drive(subject, Begin(), *[block("a"), done("1\n")] * 3)
    assert isinstance(effect, AskLast)
    assert "1\n" in effect.messages[-2].content
    assert drive(subject, ModelReplied("It is 1.")) == Conclusion("It is 1.", StopReason.no_progress(1))


@pytest.mark.parametrize(
    "turns",
    [
        [("a", "1\n", ""), ("b", "1\n", "")],  # other code
        [("a", "1\n", ""), ("a", "2\n", "")],  # another output
        [("a", "", "first"), ("a", "", "second")],  # it asks models for another piece each time
        [("a", "1\n", ""), ("a", "1\n", ""), ("a", "1\n", ""), ("b", "1\n", "")],  # told, and heeded
    ],
)
def test_a_turn_that_differs_begins_the_count_anew(turns: list[tuple[str, str, str]]) -> None:
    subject = stubborn(2)
    drive(subject, Begin())
    for source, stdout, asked in turns * 4:
        ended = replace(done(stdout), asked=asked)
        assert isinstance(drive(subject, block(source), ended), AskModel)


def test_code_that_asks_models_the_same_and_learns_nothing_is_no_progress() -> None:
    subject = stubborn(1)
    ended = replace(done(), asked="the same")
    drive(subject, Begin(), *[block("a"), ended] * 2)
    assert drive(subject, block("a"), ended) == Conclusion("Look:", StopReason.no_progress(1))


def test_words_that_come_again_and_again_are_no_progress_either_and_without_a_limit_nothing_is() -> None:
    subject = stubborn(2)
    drive(subject, Begin(), *[ModelReplied("I think.")] * 3)
    assert drive(subject, ModelReplied("I think.")) == Conclusion("I think.", StopReason.no_progress(2))
    subject = stubborn(0)
    drive(subject, Begin())
    for _ in range(40):
        assert isinstance(drive(subject, block("a"), done("1\n")), AskModel)


def test_an_empty_final_as_text_is_no_finish_and_the_model_is_told() -> None:
    contents = said(drive(loop("final"), Begin(), ModelReplied("FINAL()")))
    assert "there was no answer in it" in contents[-2]


def test_a_variable_named_as_text_ends_every_dialect() -> None:
    for dialect in ("answer", "final", "both"):
        effect = drive(loop(dialect), Begin(), ModelReplied("FINAL_VAR(found)"))
        assert effect == RunBlock("__FINAL_VAR__('found')")


def test_a_model_that_fails_ends_the_run_with_the_reason() -> None:
    effect = drive(loop(), Begin(), ModelReplied("draft"), ModelFailed(ProviderError("no key")))
    assert effect == Conclusion("draft", StopReason.model_failed("ProviderError", "no key"))


@pytest.mark.parametrize("dialect", ["final", "both"])
def test_a_final_answer_as_text_finishes(dialect: str) -> None:
    effect = drive(loop(dialect), Begin(), ModelReplied("So:\nFINAL(it is 42)"))
    assert effect == Conclusion("it is 42", StopReason.final())


@pytest.mark.parametrize("dialect", ["final", "both"])
def test_a_final_variable_as_text_is_asked_of_the_session(dialect: str) -> None:
    subject = loop(dialect)
    assert drive(subject, Begin(), ModelReplied("FINAL_VAR(result)")) == RunBlock("__FINAL_VAR__('result')")
    assert drive(subject, done(finish="42")) == Conclusion("42", StopReason.finished())


def test_a_final_variable_that_does_not_exist_is_an_observation() -> None:
    subject = loop("final")
    missing = CellFinished(CellResult(GuestException("NameError", "result")))
    contents = said(drive(subject, Begin(), ModelReplied("FINAL_VAR(result)"), missing))
    assert "NameError: result" in contents[-2]


@pytest.mark.parametrize("name", ["a' + evil + 'b", "a\nb", 'a" + evil + "b', "a\\"])
def test_a_final_variable_is_a_name_and_never_code(name: str) -> None:
    effect = drive(loop("final"), Begin(), ModelReplied(f"FINAL_VAR({name})"))
    assert isinstance(effect, RunBlock)
    code = compile(effect.source, "cell", "eval")
    assert code.co_names == ("__FINAL_VAR__",)
    assert name in code.co_consts


def test_the_blocks_of_a_reply_run_before_its_final_variable() -> None:
    subject = loop("final")
    assert drive(subject, Begin(), ModelReplied("```repl\nr = 1\n```\nFINAL_VAR(r)")) == RunBlock("r = 1")
    assert drive(subject, done()) == RunBlock("__FINAL_VAR__('r')")


def test_a_final_answer_beside_code_it_has_not_seen_the_output_of_is_not_accepted() -> None:
    subject = loop("final")
    effect = drive(subject, Begin(), ModelReplied("```repl\nr = 1\n```\nFINAL(made up)"), done("1\n"))
    assert "was not accepted" in said(effect)[-2]
    assert drive(subject, LATE) == Conclusion("made up", LATE.stop)


def test_text_is_no_finish_in_the_answer_dialect() -> None:
    assert isinstance(drive(loop("answer"), Begin(), ModelReplied("FINAL(42)")), AskModel)


def test_lenient_fences_are_an_option() -> None:
    reply = ModelReplied("```python\na\n```")
    assert isinstance(drive(loop(), Begin(), reply), AskModel)
    assert drive(loop(lenient=True), Begin(), reply) == RunBlock("a")


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        ([], ModelReplied("x")),
        ([], done()),
        ([Begin()], Begin()),
        ([Begin()], done()),
        ([Begin(), block("a")], ModelReplied("x")),
        ([Begin(), block("a")], ModelFailed(ProviderError("x"))),
    ],
)
def test_an_input_out_of_turn_is_our_bug(before: list[LoopInput], wrong: LoopInput) -> None:
    subject = loop()
    for given_input in before:
        subject.handle(given_input)
    with pytest.raises(InternalError):
        subject.handle(wrong)


replies = st.sampled_from(
    [
        "",
        "text",
        "```repl\na\n```",
        "```repl\na\n```\n```repl\nb\n```",
        "```repl\na",
        "FINAL(x)",
        "FINAL_VAR(x)",
    ]
)
reports = st.sampled_from(
    [
        CellFinished(CellResult(stdout="x\n")),
        CellFinished(CellResult(GuestException("ValueError", ""))),
        CellFinished(RESTORED),
        CellFinished(LOST),
        CellFinished(CellResult(), "answer"),
    ]
)


@given(st.data(), st.sampled_from(["answer", "final", "both"]), st.integers(1, 6), st.booleans())
@settings(max_examples=200)
def test_every_conversation_ends_and_never_takes_more_turns_than_it_may(
    data: st.DataObject, dialect: str, iterations_max: int, asks: bool
) -> None:
    subject = asking(dialect, iterations_max) if asks else loop(dialect, iterations_max)
    effect = drive(subject, Begin())
    turns = cells = last = 0
    while not isinstance(effect, Conclusion):
        if isinstance(effect, AskModel):
            turns += 1
            assert turns <= iterations_max
            effect = drive(subject, ModelReplied(data.draw(replies)))
        elif isinstance(effect, AskLast):
            last += 1
            assert last == asks
            effect = drive(subject, ModelReplied(data.draw(replies)))
        else:
            cells += 1
            assert cells <= 3 * turns
            effect = drive(subject, data.draw(reports))
    assert effect.partial == (str(effect.stop) not in ("finished", "final"))
    assert subject.handle(LATE) == []


def test_a_model_that_says_nothing_is_told_so_and_not_for_ever() -> None:
    silent = ModelFailed(NoText("the provider at h sent no text"))
    subject = loop(iterations_max=20)
    drive(subject, Begin())
    for _ in range(3):
        told = said(drive(subject, silent))
        assert told[-2].startswith("Your last reply came without any text")
    assert isinstance(drive(subject, ModelReplied("I look first.")), AskModel)
    for _ in range(3):
        assert isinstance(drive(subject, silent), AskModel)
    effect = drive(subject, silent)
    assert isinstance(effect, Conclusion)
    assert (effect.answer, effect.partial) == ("I look first.", True)


def test_the_turns_bound_a_model_that_says_nothing() -> None:
    effect = drive(loop(iterations_max=1), Begin(), ModelFailed(NoText("the provider at h sent no text")))
    assert isinstance(effect, Conclusion)
    assert effect.stop == StopReason.iterations(1, "run.turns_max")


def long_talk(window: int | None, *, percent: int = 75, summaries: int = 0) -> RlmLoop:
    return RlmLoop(
        "why?", CONTEXT, "both", observation(bytes_max=4_000), 60,
        window_tokens=window, compact_percent=percent, summaries_max=summaries,
    )  # fmt: skip


def test_what_a_cell_shows_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[RanCell] = []

    def counted(cell: RanCell, limits: ObservationLimits) -> str:
        shown.append(cell)
        return format_observation(cell, limits)

    monkeypatch.setattr(observations, "format_observation", counted)
    subject = stubborn(4)
    effect = drive(subject, Begin())
    for number in range(1, 5):  # the last of which is told that it repeats itself
        effect = drive(subject, block("a"), done("x\n"))
        assert len(shown) == number
    assert isinstance(effect, AskModel)
    assert "the same" in effect.messages[-2].content


def talk(subject: RlmLoop, turns: int) -> list[LoopEffect]:
    """Print a page in each of so many turns, and return what was asked."""
    asked = [drive(subject, Begin())]
    for number in range(turns):
        effect = drive(subject, block(f"a{number}"), done("page " * 200 + f"{number}\n"))
        if isinstance(effect, AskSummary):
            asked.append(effect)
            effect = drive(subject, ModelReplied("What I found is in `a`."))
        asked.append(effect)
    return asked


def lost(effects: list[LoopEffect]) -> list[bool]:
    told = [effect.compacted for effect in effects if isinstance(effect, AskModel)]
    return [compacted.summarised for compacted in told if compacted is not None]


def test_a_history_never_grows_beyond_the_window_and_keeps_rules_question_and_last_output() -> None:
    asked = talk(long_talk(6_000), 30)
    assert len(lost(asked)) >= 2
    for number, effect in enumerate(asked):
        assert isinstance(effect, AskModel)
        assert prompt_bytes(effect.messages) / 3 < 6_000
        assert "why?" in effect.messages[1].content
        if number:
            assert f"page {number - 1}\n" in effect.messages[-2].content


def test_a_model_is_asked_for_a_summary_as_often_as_it_may_be() -> None:
    asked = talk(long_talk(6_000, summaries=1), 30)
    summaries = [effect for effect in asked if isinstance(effect, AskSummary)]
    assert len(summaries) == 1
    assert lost(asked).count(True) == 1
    last = asked[-1]
    assert isinstance(last, AskModel)
    assert "What I found is in `a`." in last.messages[2].content


def test_an_output_that_a_summary_shows_first_is_counted_there_and_not_again() -> None:
    asked = talk(long_talk(6_000, summaries=1), 30)
    outputs = [effect.messages[-2].content for effect in asked[1:]]
    summary = next(place for place, effect in enumerate(asked) if isinstance(effect, AskSummary))
    counted = [effect.observed_bytes for effect in asked if isinstance(effect, AskModel | AskSummary)]
    shown = [0, *(len(output.encode()) for output in outputs)]
    shown[summary + 1] = 0  # of the turn behind it
    assert counted == shown


def test_without_its_summary_a_history_is_made_shorter_all_the_same() -> None:
    subject = long_talk(6_000, summaries=1)
    effect = drive(subject, Begin())
    while not isinstance(effect, AskSummary):
        effect = drive(subject, block("a"), done("page " * 200))
    effect = drive(subject, ModelFailed(ProviderError("no")))
    assert isinstance(effect, AskModel)
    assert effect.compacted is not None
    assert not effect.compacted.summarised


def test_a_stop_while_a_summary_is_written_ends_the_run() -> None:
    subject = long_talk(6_000, summaries=1)
    effect = drive(subject, Begin())
    while not isinstance(effect, AskSummary):
        effect = drive(subject, block("a"), done("page " * 200))
    assert drive(subject, LATE) == Conclusion("Look:", LATE.stop)


def test_refusals_make_it_shorter_a_few_times_and_then_end_it() -> None:
    subject = long_talk(None)
    talk(subject, 12)
    refusal = ModelFailed(WindowExceeded("too long"))
    sizes = []
    for _ in range(3):
        effect = drive(subject, refusal)
        assert isinstance(effect, AskModel)
        sizes.append(prompt_bytes(effect.messages))
    assert sizes == sorted(sizes, reverse=True)
    effect = drive(subject, refusal)
    assert isinstance(effect, Conclusion)
    assert (effect.answer, str(effect.stop)) == ("Look:", "model_failed: WindowExceeded: too long")


def test_what_a_refusal_says_is_known_from_then_on() -> None:
    subject = long_talk(None)
    size = prompt_bytes(talk(subject, 12)[-1].messages)  # type: ignore[union-attr]
    refusal = WindowExceeded("too long", window_tokens=size // 8, prompt_tokens=size // 4)
    effect = drive(subject, ModelFailed(refusal))
    assert isinstance(effect, AskModel)
    assert effect.compacted is not None
    assert (effect.compacted.refused, effect.compacted.window_tokens) == (True, size // 8)
    assert prompt_bytes(effect.messages) / 4 < size // 8


def test_a_question_that_is_too_long_by_itself_ends_at_once() -> None:
    subject = long_talk(None)
    drive(subject, Begin())
    effect = drive(subject, ModelFailed(WindowExceeded("too long", window_tokens=100, prompt_tokens=900)))
    assert isinstance(effect, Conclusion)
