"""Inputs get names the session can use, and the model is told of them without seeing them."""

from __future__ import annotations

import pytest

from rlm_wasm.engine.contexts import apart, describe, files_of, named_contexts
from rlm_wasm.errors import NoJsonForm, UsageError
from rlm_wasm.protocol.session_names import RESERVED


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


def test_what_is_neither_text_nor_bytes_goes_in_as_json():
    assert named_contexts([{"role": "user"}]) == {"context": '[{"role":"user"}]'}
    facts = describe(named_contexts({"rows": ("a", "b"), "n": 7, "d": {"k": None}}))
    assert [(f.type_name, f.length, f.unit) for f in facts] == [
        ("list", 2, "items"),
        ("int", 1, "value"),
        ("dict", 1, "items"),
    ]
    assert facts[0].peek == '["a","b"]'


def test_no_two_inputs_are_called_the_same_in_inputs():
    same = {"a": "x.tar.gz", "b": "x.tar.gz", "c": "x-2.tar.gz", "d": "x.tar.gz", "e": ".env", "f": ".env"}
    assert list(apart(same).values()) == [
        "x.tar.gz", "x-3.tar.gz", "x-2.tar.gz", "x-4.tar.gz", ".env", ".env-2"
    ]  # fmt: skip
    assert apart(apart(same)) == apart(same)
    assert files_of({"a": "1", "b": "2", "c": "3"}, {"a": "b"}) == {"a": "b", "b": "b-2", "c": "c"}
    facts = describe({"a": "1", "b": "2"}, files_of({"a": "1", "b": "2"}, {"a": "x", "b": "x"}))
    assert [fact.file for fact in facts] == ["x", "x-2"]


def test_an_input_without_a_json_form_is_refused_by_its_name():
    with pytest.raises(NoJsonForm, match=r"rows\[1\] is a set"):
        named_contexts({"rows": ["a", {1}]})


def test_the_model_is_told_size_and_beginning_and_no_more():
    (facts,) = describe({"context": "a" * 10_000 + "secret"})
    assert (facts.length, facts.unit, facts.type_name) == (10_006, "characters", "str")
    assert "secret" not in facts.peek
    assert len(facts.peek) <= 500
