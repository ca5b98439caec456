"""Which variable an input is bound to, whatever stands before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.variable_names import named, split
from tests.unit.inputs.calm import CALM

NAMES = st.sampled_from(["a", "b", "context", "context_2", "context_3"])


@pytest.mark.parametrize(
    ("given_names", "found"),
    [
        ([], []),
        ([None], ["context"]),
        ([None, None, None], ["context", "context_2", "context_3"]),
        (["a", None], ["a", "context"]),
        ([None, "a", None], ["context", "a", "context_2"]),
        ([None, "context"], ["context_2", "context"]),
        ([None, None, "context_2"], ["context", "context_3", "context_2"]),
    ],
)
def test_the_first_without_a_name_is_context_wherever_it_stands(
    given_names: list[str | None], found: list[str]
) -> None:
    assert named(given_names) == found


@CALM
@given(given_names=st.lists(st.none() | NAMES, max_size=12))
def test_every_input_has_a_name_of_its_own_and_keeps_the_one_it_was_given(
    given_names: list[str | None],
) -> None:
    chosen = [name for name in given_names if name is not None]
    if len(set(chosen)) < len(chosen):
        with pytest.raises(UsageError, match="two inputs are called"):
            named(given_names)
        return
    found = named(given_names)
    assert len(set(found)) == len(given_names)
    assert all(name in (None, had) for name, had in zip(given_names, found, strict=True))
    if None in given_names:
        assert "context" in found


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("a=x.csv", ("a", "x.csv")),
        ("a=b=c", ("a", "b=c")),
        ("./a=x", (None, "./a=x")),
        ("a=", (None, "a=")),
        ("=x", (None, "=x")),
        ("1a=x", (None, "1a=x")),
        ("-", (None, "-")),
    ],
)
def test_a_name_is_what_stands_before_the_first_equals_sign(
    argument: str, found: tuple[str | None, str]
) -> None:
    assert split(argument) == found
