"""The gate of typed answers: hostile texts are refused with the reason, and nothing else comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.answers.json_gate import DIGITS_MAX, AnswerRefused, read_json, unfenced

MOST = 65_536
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refusal(text: str, bytes_max: int = MOST) -> str:
    with pytest.raises(AnswerRefused) as caught:
        read_json(text, bytes_max, "cell.result_bytes_max")
    assert caught.value.__cause__ is None
    (problem,) = caught.value.problems
    assert len(problem) < 300
    return problem


@given(VALUES)
def test_a_value_comes_through_as_it_was(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert read_json(text, 10**6, "k") == value


@given(st.text() | st.text(alphabet='[]{}",:\\u01d8.eE-NaInfity \n'))
def test_whatever_the_text_is_a_value_or_a_refusal_comes_out(text: str) -> None:
    try:
        value = read_json(text, MOST, "k")
    except AnswerRefused:
        return
    assert read_json(json.dumps(value), 10 * MOST, "k") == value


@pytest.mark.threat("T-351")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" + "0," * 15_000_000 + "0]", "more than 65536 bytes, which is cell.result_bytes_max"),
        ("[" * 30_000, "nested deeper than 100"),
        ("[" * 101 + "]" * 101, "nested deeper than 100"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested deeper than 100"),
        ("[NaN]", "holds NaN"),
        ("-Infinity", "holds -Infinity"),
        ("1e999", "a number that is too large"),
        ("9" * (DIGITS_MAX + 1), f"more than {DIGITS_MAX} digits"),
        ("0." + "9" * DIGITS_MAX, "of too many digits"),
        ('{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        ('{"a": 1, "\\u0061": 2}', "has the key 'a' twice"),
        ('{"' + "k" * 500 + '": 1, "' + "k" * 500 + '": 2}', "twice"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ('"\ud800"', "half of a surrogate pair"),
        ("{'a': 1}", "no JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
        ("", "no JSON"),
        ("1 2", "no JSON: Extra data"),
        ("[1,\n2,\n]", "line 3, column 1"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_hostile_text_is_refused_with_the_reason(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.threat("T-351")
def test_a_depth_of_a_hundred_thousand_is_refused_where_the_bytes_would_do() -> None:
    assert "nested deeper than 100" in refusal("[" * 100_000 + "]" * 100_000, 10**9)
    assert "nested deeper" in refusal('{"a":' * 100_000, 10**9)


def test_the_bytes_are_counted_and_not_the_characters() -> None:
    text = json.dumps("é" * 40_000, ensure_ascii=False)
    assert len(text) < MOST < len(text.encode())
    assert "more than 65536 bytes" in refusal(text)


def test_what_looks_nested_in_a_string_is_not() -> None:
    assert read_json(json.dumps("[" * 5_000), MOST, "k") == "[" * 5_000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```json\n[1]\n```", "[1]"),
        ("```\n[1]\n```\n", "[1]"),
        ("Here: ```json\n[1]\n```", "Here: ```json\n[1]\n```"),
        ("``````", "``````"),
        (" 7 ", "7"),
    ],
)
def test_what_is_nothing_but_a_fence_is_what_stands_in_it(text: str, found: str) -> None:
    assert unfenced(text) == found
