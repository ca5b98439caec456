"""The gate for arguments: whatever text a guest sends is read by the schema, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import LimitExceeded, ToolArgumentError
from rlm_wasm.limits import ToolLimits
from rlm_wasm.tools.tool import Tool
from rlm_wasm.tools.validation import check_arguments

LIMITS = ToolLimits(parallel_max=1, timeout_ms_max=1_000, arguments_bytes_max=400, result_bytes_max=400)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from(["a", "b", "c", "self", "model_config", "a0", ""])


def takes(a: int, b: list[str] | None = None, /, *, c: dict[str, float] | None = None) -> None: ...


MADE: Any = Tool(takes, name="takes")


@pytest.mark.threat("T-340")
@given(
    st.text(max_size=60)
    | st.dictionaries(names, values, max_size=4).map(lambda made: json.dumps(made, ensure_ascii=False))
    | st.integers(0, 300).map(lambda depth: '{"a":' + "[" * depth + "]" * depth + "}")
)
@settings(max_examples=400, deadline=None)
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    refusal: ToolArgumentError | LimitExceeded | None = None
    try:
        positional, named = MADE.schema.read(check_arguments(text, LIMITS))
    except (ToolArgumentError, LimitExceeded) as error:
        refusal = error
    if refusal is not None:
        assert len(refusal.message) < 4_000
        assert refusal.__cause__ is None
        return
    assert 1 <= len(positional) <= 2
    assert type(positional[0]) is int
    assert set(named) <= {"c"}
    takes(*positional, **named)


def test_a_parameter_that_was_not_given_keeps_its_own_default() -> None:
    seen: list[Any] = []

    def note(first: int, names: list[str] = seen, self: str = "x", model_config: int = 0) -> None: ...

    made: Any = Tool(note)
    assert made.schema.read(b'{"first":1}') == ((), {"first": 1})
    assert made.schema.read(b'{"first":1,"model_config":2,"self":"y"}') == (
        (),
        {"first": 1, "self": "y", "model_config": 2},
    )


def test_the_most_bytes_and_levels_are_still_read() -> None:
    assert check_arguments("x" * 400, LIMITS) == b"x" * 400
    with pytest.raises(LimitExceeded, match=r"401 bytes; tools.arguments_bytes_max allows 400"):
        check_arguments("x" * 401, LIMITS)
    assert check_arguments("[" * 100 + "]" * 100, LIMITS)
    with pytest.raises(ToolArgumentError, match="deeper than 100"):
        check_arguments("[" * 101 + "]" * 101, LIMITS)
    # Brackets in strings are none.
    assert check_arguments(json.dumps({"a": "[" * 300}), LIMITS)
