"""A history that is made shorter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.conversation.compaction import (
    LEFT_OUT,
    SUMMARY,
    without_long_outputs,
    without_middle,
    without_old_turns,
)
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import prompt_bytes, utf8_bytes

HEAD = [Message("system", "rules"), Message("user", "why?")]


def turn(number: int, size: int = 3_000) -> list[Message]:
    output = f"begin {number} " + "x" * size + f" end {number}"
    return [Message("assistant", f"code {number}"), Message("user", output)]


def history(turns: int, size: int = 3_000) -> list[Message]:
    return HEAD + [message for number in range(turns) for message in turn(number, size)]


def test_old_outputs_lose_their_middle_first_and_the_last_one_stays() -> None:
    before = history(3)
    after = without_long_outputs(before, 8_000, unread=1)
    assert [message.role for message in after] == [message.role for message in before]
    assert after[3].content.startswith("begin 0 xxx")
    assert after[3].content.endswith("xxx end 0")
    assert " chars...] " in after[3].content
    assert after[4:] == before[4:], "the oldest alone was enough"
    assert prompt_bytes(after) <= 8_000


def test_all_but_what_is_unread_is_cut_where_there_is_little_room() -> None:
    before = history(3)
    after = without_long_outputs(before, 100, unread=1)
    assert after[-1] == before[-1]
    assert all(utf8_bytes(after[number].content) < 300 for number in (3, 5))
    assert without_long_outputs(after, 100, unread=1) == after


def test_what_is_cut_again_says_all_that_is_missing() -> None:
    text = "a" * 9_000
    assert "[8000 chars...]" in without_middle(text, 1_000)
    assert "[8900 chars...]" in without_middle(without_middle(text, 1_000), 100)


def test_then_whole_turns_go_and_one_note_says_so() -> None:
    after = without_old_turns(history(5, 300), 900, unread=1)
    assert after[:3] == [*HEAD, Message("user", LEFT_OUT)]
    assert [m.content for m in after if m.role == "assistant"] == ["code 3", "code 4"]
    again = without_old_turns([*after, *turn(5, 300)], 900, unread=1)
    assert [message.content for message in again].count(LEFT_OUT) == 1
    assert [m.content for m in again if m.role == "assistant"] == ["code 4", "code 5"]


def test_a_summary_stands_for_all_turns_but_the_last_and_outlives_what_is_left_out_later() -> None:
    after = without_old_turns(history(4, 300), 5_000, unread=1, summary="all is well")
    assert after == [*HEAD, Message("user", SUMMARY + "all is well"), *turn(3, 300)]
    later = without_old_turns([*after, *turn(4, 300), *turn(5, 300)], 700, unread=1)
    assert later[2:4] == [Message("user", SUMMARY + "all is well"), Message("user", LEFT_OUT)]
    replaced = without_old_turns([*after, *turn(4, 300)], 5_000, unread=1, summary="still well")
    assert replaced == [*HEAD, Message("user", SUMMARY + "still well"), *turn(4, 300)]


def test_the_last_turn_is_cut_where_nothing_else_is_left() -> None:
    after = without_old_turns(history(1, 50_000), 2_000, unread=1)
    assert prompt_bytes(after) <= 2_000
    assert after[-1].content.startswith("begin 0")
    assert after[-1].content.endswith("end 0")


@pytest.mark.parametrize("before", [HEAD, HEAD[:1], [*HEAD, Message("assistant", "x")]])
def test_a_history_with_nothing_to_leave_out_stays(before: list[Message]) -> None:
    assert without_old_turns(without_long_outputs(before, 1, 0), 1, 0) == before


@given(st.text(max_size=400), st.integers(1, 200))
def test_what_is_left_of_a_text_is_its_two_ends(text: str, most: int) -> None:
    cut = without_middle(text, most)
    if cut != text:
        head, _, rest = cut.partition("... + [")
        missing, _, tail = rest.partition(" chars...] ")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + int(missing) + len(tail) == len(text)


def test_half_a_surrogate_pair_and_half_a_character_raise_nothing() -> None:
    assert " chars...] " in without_middle("\ud800ü€" * 200, 100)
