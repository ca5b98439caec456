"""What the model gets to see of a cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.observations import (
    cut_text,
    fair_rooms,
    format_observation,
    observation_messages,
)
from rlm_wasm.conversation.ran_cell import AnsweredQuery, RanCell
from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestException,
    GuestTrap,
    MemoryExceeded,
    OutputExceeded,
    RequestsExceeded,
)
from rlm_wasm.outcomes import SessionState
from rlm_wasm.results import CellResult
from tests.support.core_facts import observation

LIMITS = observation()
ANY_TEXT = st.text(max_size=300)


def body(result: CellResult, answered: tuple[AnsweredQuery, ...] = (), **limits: int) -> str:
    cell = RanCell("", result, result.variables, answered)
    return format_observation(cell, observation(**limits))


def raised(text: str, **more: str) -> CellResult:
    """A cell whose traceback is `text`."""
    return CellResult(GuestException("E", "", text), **more)


def test_the_body_has_the_form_that_trained_models_know() -> None:
    report = CellResult(stdout="hello\n", stderr="warned\n", variables=("a", "b"))
    assert body(report) == "\nhello\n\n\n\nwarned\n\n\nREPL variables: ['a', 'b']\n"
    assert body(CellResult(stdout="hello\n")) == "\nhello\n"
    assert body(CellResult()) == "No output"


def test_the_last_expression_is_shown_behind_what_was_printed() -> None:
    assert body(CellResult(result="42")) == "\n42"
    assert body(CellResult(stdout="a\n", result="42")) == "\na\n42"
    assert body(CellResult(stdout="a", result="42")) == "\na\n42"


def test_an_error_is_shown_as_its_traceback() -> None:
    traceback = 'Traceback (most recent call last):\n  File "<cell>", line 1\nNameError: x'
    shown = body(raised(traceback, stdout="before\n"))
    assert shown == f"\nbefore\n\n\n\n{traceback}"


@pytest.mark.parametrize("error", ["SyntaxError", "IndentationError", "TabError"])
def test_code_that_does_not_parse_gets_advice(error: str) -> None:
    shown = body(raised(f"  File x\n{error}: bad\n"))
    assert "not valid Python" in shown
    assert "not valid Python" not in body(raised(f"ValueError: {error}"))


@pytest.mark.parametrize(
    "kind",
    [
        FuelExhausted,
        MemoryExceeded,
        DeadlineExceeded,
        OutputExceeded,
        RequestsExceeded,
        BoundaryViolation,
        GuestTrap,
        CellCancelled,
    ],
)
def test_a_stopped_cell_says_why(kind: type[GuestError]) -> None:
    assert "The cell was" in body(CellResult(kind("x")))


def test_a_lost_session_lists_the_answers_it_forgot() -> None:
    asked = (AnsweredQuery("what is it?", "a cat"), AnsweredQuery("and 'that'?", "a\ndog"))
    shown = body(CellResult(GuestTrap("x"), session_state=SessionState.RESTORED), asked)
    assert "nothing the cell assigned is left" in shown
    assert "- 'what is it?' -> 'a cat'" in shown
    assert "'a\\ndog'" in shown
    kept = body(raised("ValueError"), asked)
    assert "a cat" not in kept


def test_private_names_are_not_listed_and_the_list_is_bounded() -> None:
    names = ("_x", "__y__", "a", "b", "c")
    assert body(CellResult(variables=names)) == "REPL variables: ['a', 'b', 'c']\n"
    assert body(CellResult(variables=names), variables_max=2) == ("REPL variables: ['a', 'b'] and 1 more\n")
    assert body(CellResult(variables=("_x",))) == "No output"


def test_what_is_cut_says_how_much_is_missing() -> None:
    shown = body(CellResult(stdout="x" * 3_000), bytes_max=2_000)
    assert shown == "\n" + "x" * 1_999 + "... + [1001 chars...]"


def test_a_flood_of_output_does_not_push_out_the_traceback() -> None:
    error = GuestException("ValueError", "here")
    shown = body(CellResult(error, stdout="x" * 10**6, stderr="y" * 10**6, variables=("a",)))
    assert "ValueError: here" in shown
    assert shown.endswith("REPL variables: ['a']\n")
    assert len(shown) < 2_100


@given(
    st.builds(
        CellResult,
        error=st.none()
        | st.builds(GuestException, ANY_TEXT, ANY_TEXT, ANY_TEXT)
        | st.builds(GuestTrap, ANY_TEXT),
        stdout=ANY_TEXT,
        stderr=ANY_TEXT,
        result=st.none() | ANY_TEXT,
        variables=st.lists(ANY_TEXT, max_size=5).map(tuple),
        session_state=st.sampled_from(SessionState),
    ),
    st.lists(st.builds(AnsweredQuery, ANY_TEXT, ANY_TEXT), max_size=3).map(tuple),
    st.integers(0, 1_000),
)
def test_an_observation_is_never_longer_than_the_policy_says(
    result: CellResult, answered: tuple[AnsweredQuery, ...], bytes_max: int
) -> None:
    shown = body(result, answered, bytes_max=bytes_max)
    marks = 6 * len("... + [100000 chars...]")
    separators = 2 * 5
    assert len(shown.encode("utf-8", "surrogatepass")) <= bytes_max + marks + separators
    assert shown


@given(st.text(max_size=100), st.integers(0, 120))
def test_a_cut_keeps_whole_characters_and_counts_the_rest(text: str, bytes_max: int) -> None:
    shown = cut_text(text, bytes_max)
    if shown == text:
        assert len(text.encode("utf-8", "surrogatepass")) <= bytes_max
        return
    kept, _, mark = shown.rpartition("... + [")
    assert text.startswith(kept)
    assert len(kept.encode("utf-8", "surrogatepass")) <= bytes_max
    assert int(mark.removesuffix(" chars...]")) == len(text) - len(kept)


@given(st.lists(st.integers(0, 500), max_size=6), st.integers(0, 1_000))
def test_room_is_shared_fairly(sizes: list[int], room: int) -> None:
    rooms = fair_rooms(sizes, room)
    assert sum(rooms) <= room or sum(rooms) == 0
    assert all(0 <= given <= size for given, size in zip(rooms, sizes, strict=True))
    if sum(sizes) <= room:
        assert rooms == sizes
    cut = [given for given, size in zip(rooms, sizes, strict=True) if given < size]
    if cut:
        assert max(rooms) - min(cut) <= 1 + max(0, max(cut) - min(cut))
        assert max(cut) - min(cut) <= 1


def test_one_cell_and_several_have_their_own_headings() -> None:
    first = RanCell("a", CellResult(stdout="1\n"))
    second = RanCell("b", CellResult())
    (one,) = observation_messages([first], [], Dialect.ANSWER, LIMITS)
    assert (one.role, one.content) == ("user", "REPL output:\n\n1\n")
    (two,) = observation_messages([first, second], [], Dialect.ANSWER, LIMITS)
    assert two.content == "REPL output (block 1):\n\n1\n\n\nREPL output (block 2):\nNo output"


def test_the_paper_dialect_repeats_the_code_in_a_message_for_each_cell() -> None:
    cells = [RanCell("a = 1", CellResult()), RanCell("a", CellResult(result="1"))]
    first, second = observation_messages(cells, ["note"], Dialect.FINAL, LIMITS)
    assert first.content == "Code executed:\n```python\na = 1\n```\n\nREPL output:\nNo output"
    assert second.content == "Code executed:\n```python\na\n```\n\nREPL output:\n\n1\n\nnote"


def test_notes_stand_alone_if_nothing_ran() -> None:
    (message,) = observation_messages([], ["one", "two"], Dialect.ANSWER, LIMITS)
    assert message.content == "one\n\ntwo"
    assert observation_messages([], [], Dialect.ANSWER, LIMITS) == ()
