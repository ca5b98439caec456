"""Inputs get names the session can use, and the model is told of them without seeing them."""

from __future__ import annotations

import pytest

from rlm_wasm.engine.contexts import RESERVED, describe, named_contexts
from rlm_wasm.errors import UsageError


def test_a_single_input_is_called_context_and_several_keep_their_names():
    assert named_contexts("text") == {"context": "text"}
    assert named_contexts({"a": "x", "b": b"y"}) == {"a": "x", "b": b"y"}
    assert named_contexts(None) == {}


@pytest.mark.parametrize(
    "name", [*sorted(RESERVED), "__llm_query__", "not a name", "", "1st", "class", "ﬁle"]
)
def test_a_name_the_session_needs_or_cannot_have_is_refused(name: str):
    with pytest.raises(UsageError):
        named_contexts({name: "text"})


def test_an_input_that_is_no_text_is_refused():
    with pytest.raises(UsageError, match="list"):
        named_contexts({"rows": ["a"]})


def test_the_model_is_told_size_and_beginning_and_no_more():
    (facts,) = describe({"context": "a" * 10_000 + "secret"})
    assert (facts.length, facts.unit, facts.type_name) == (10_006, "characters", "str")
    assert "secret" not in facts.peek
    assert len(facts.peek) <= 500
