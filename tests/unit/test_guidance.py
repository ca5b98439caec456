"""Guidance: what is taken for one, its sizes, and which limit it is beyond."""

from __future__ import annotations

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.guidance import NO_GUIDANCE, Example, Guidance
from rlm_wasm.limits import GuidanceLimits

LIMITS = GuidanceLimits(instructions_bytes_max=10, examples_max=2, examples_bytes_max=8)


def test_nothing_given_is_no_guidance() -> None:
    assert Guidance.given(None, ()) == NO_GUIDANCE
    assert not NO_GUIDANCE
    NO_GUIDANCE.check(LIMITS)


@pytest.mark.parametrize(
    ("instructions", "examples", "said"),
    [
        (5, (), "instructions: a str, not a int"),
        (" \n", (), "instructions: there is nothing in it"),
        ("a\x1b[2J", (), "instructions: character 1 is no text ('\\x1b')"),
        ("a\ud800", (), "instructions: character 1 is no text"),
        (None, 5, "examples are several, such as a list of them, not a int"),
        (None, "ab", "examples are several, such as a list of them, not a str"),
        (None, Example("q", "r"), "not a Example"),
        (None, [("q", "r")], "example 1 is an Example, not a tuple"),
        (None, [Example("q", "r"), Example("q", "")], "the reply of example 2: there is nothing in it"),
        (None, [Example(None, "r")], "the question of example 1: a str, not a NoneType"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_guidance_is_refused_with_its_place(instructions, examples, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Guidance.given(instructions, examples)
    assert said in refused.value.message


def test_a_policys_stands_before_a_questions() -> None:
    one, other = Example("a", "b"), Example("c", "d")
    both = Guidance("First.", (one,)).followed_by(Guidance("Second.", (other,)))
    assert both == Guidance("First.\n\nSecond.", (one, other))
    assert NO_GUIDANCE.followed_by(Guidance("x")) == Guidance("x") == Guidance("x").followed_by(NO_GUIDANCE)


@pytest.mark.parametrize(
    ("guidance", "words"),
    [
        (Guidance("ä" * 6), "the instructions take 12 bytes, 10 allowed: guidance.instructions_bytes_max"),
        (Guidance("", (Example("q", "r"),) * 3), "the examples are 3, 2 allowed: guidance.examples_max"),
        (
            Guidance("", (Example("ä" * 4, "r"),)),
            "the examples take 9 bytes, 8 allowed: guidance.examples_bytes_max",
        ),
    ],
)
def test_more_than_a_limit_is_refused_with_its_key_and_both_numbers(guidance: Guidance, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        guidance.check(LIMITS)
    assert refused.value.message == words


def test_exactly_a_limit_is_allowed() -> None:
    Guidance("x" * 10, (Example("qqq", "r"), Example("qqq", "r"))).check(LIMITS)
