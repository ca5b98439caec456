"""JSON inputs as values: what they are, what has no value, and the size that is known before one is made."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.inputs.json_values import NoValue, json_value
from rlm_wasm.inputs.kinds import InputKind
from tests.unit.inputs.calm import CALM

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(LEAVES, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=20)


@CALM
@given(value=VALUES, indent=st.sampled_from([None, 2]))
def test_a_json_text_is_its_value(value: Any, indent: int | None) -> None:
    found = json_value(json.dumps(value, indent=indent, ensure_ascii=False), InputKind.JSON, "x", 10_000)
    assert json.loads(found) == value
    assert found.type_name == type(value).__name__


@CALM
@given(values=st.lists(VALUES, max_size=5), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_json_lines_are_the_list_of_their_values(values: list[Any], end: str) -> None:
    text = end.join(json.dumps(value, ensure_ascii=False) for value in values)
    found = json_value(text, InputKind.JSONL, "x", 10_000)
    assert json.loads(found) == values
    assert (found.type_name, found.length) == ("list", len(values))


@CALM
@given(
    text=st.text(alphabet='[]{},:"\\ 0123abtrue\n', max_size=60),
    kind=st.sampled_from([InputKind.JSON, InputKind.JSONL]),
)
def test_nothing_but_a_reason_comes_of_a_text_that_is_no_json(text: str, kind: InputKind) -> None:
    with contextlib.suppress(NoValue):  # any other ends the test
        json.loads(json_value(text, kind, "x", 100))


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ('{"a": 1,}', InputKind.JSON, "in line 1"),
        ('{"a": 1}\n{"a"', InputKind.JSONL, "in line 2"),
        ('{"a": NaN}', InputKind.JSON, "no JSON form"),
        ("9" * 5_000, InputKind.JSON, "thousands of digits"),
    ],
)
def test_a_text_without_a_value_says_why(text: str, kind: InputKind, why: str) -> None:
    with pytest.raises(NoValue, match=why):
        json_value(text, kind, "x", 100)


@pytest.mark.threat("T-212")
@pytest.mark.parametrize(
    "text", ["[[],[],[],[]]", '["a","b","c","d","e"]', '{"a":1,"b":2,"c":3,"d":4}', "1\n2\n3\n4\n5"]
)
def test_more_values_than_the_limit_are_counted_before_one_is_made(text: str) -> None:
    kind = InputKind.JSONL if "\n" in text else InputKind.JSON
    assert json_value(text, kind, "x", 10)
    with pytest.raises(NoValue, match=r"inputs\.json_values_max"):
        json_value(text, kind, "x", 3)


@pytest.mark.threat("T-212")
@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 101 + "]" * 101, '{"a":' * 5_000])
def test_a_text_of_brackets_is_no_value_and_no_deep_call(text: str) -> None:
    with pytest.raises(NoValue, match="nested deeper than 100"):
        json_value(text, InputKind.JSON, "x", 1_000_000)


def test_commas_and_brackets_in_strings_count_for_nothing() -> None:
    assert json_value('["[[[[,,,,{{{{"]', InputKind.JSON, "x", 2) == '["[[[[,,,,{{{{"]'
