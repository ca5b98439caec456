"""Variables of a program: given once for each value that they have."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.integrations.given_variables import GivenVariables
from rlm_wasm.values import JsonText


def test_a_variable_is_given_again_where_it_has_another_value_or_type_alone() -> None:
    given, loaded, ran = GivenVariables(), [], []

    def give(value: str | bytes | JsonText) -> None:
        given.give("rows", value, lambda name, sent: loaded.append(sent), ran.append)

    give("[1]")
    give("[1]")
    give(JsonText.of([1]))
    give(JsonText.of([1]))
    give(b"[1]")
    assert [type(each) for each in loaded] == [str, JsonText, bytes]
    assert ran == ["rows = rlm_staged_value\ndel rlm_staged_value"] * 3


def test_what_could_not_be_given_is_given_again() -> None:
    given, tries = GivenVariables(), []

    def load(name: str, value: object) -> None:
        tries.append(value)
        if len(tries) == 1:
            raise UsageError("too large")

    with pytest.raises(UsageError):
        given.give("x", "1", load, tries.append)
    given.give("x", "1", load, lambda source: None)
    assert tries == ["1", "1"]


@pytest.mark.parametrize("name", ["", "1x", "class", "ﬁ", "a.b", "a b", 1, None])
def test_a_name_that_no_variable_can_have_is_refused_before_anything_is_sent(name: object) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        GivenVariables().give(name, "1", pytest.fail, pytest.fail)  # type: ignore[arg-type]
