"""The table [guidance]: own instructions and examples in a policy, and what is wrong with them by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.guidance import NO_GUIDANCE, Example, Guidance
from rlm_wasm.limits import COMMON_GUIDANCE_LIMITS
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml

MINE = '''\
extends = "strict"

[guidance]
instructions = """
Dates are day/month.
"""

# Counting is code's.
[guidance.examples.count]
question = "How many?"
reply = """
```repl
print(len(context))
```
"""
'''


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_is_told_and_shown(tmp_path: Path) -> None:
    policy = Policy.load(written(tmp_path, MINE))
    example = Example("How many?", "```repl\nprint(len(context))\n```\n")
    assert policy.own_guidance() == Guidance("Dates are day/month.\n", (example,))
    again = Policy.load(written(tmp_path, to_toml(policy)))
    assert again == policy


def test_without_the_table_there_is_none_and_the_limits_are_stated(tmp_path: Path) -> None:
    policy = Policy.builtin("strict").replace(guidance=None)
    assert policy.guidance is None
    assert policy.own_guidance() == NO_GUIDANCE
    assert policy.guidance_limits() == COMMON_GUIDANCE_LIMITS
    assert Policy.load(written(tmp_path, to_toml(policy))) == policy


@pytest.mark.parametrize(
    "text",
    [
        "x" * 9_000,
        " " * 5_000,
        "\n" * 5_000,
        'a "word"\t\\ and\n' * 400,
        "\r\n\u200b\U0001f600é" * 1_500,
        '"' * 3_000 + "\\" * 3_000,
        ("y" * 998 + " \n ") * 20,
    ],
)
def test_whatever_a_policy_tells_is_written_out_and_read_again(tmp_path: Path, text: str) -> None:
    policy = Policy.builtin("strict").replace(
        guidance={"instructions": text, "instructions_bytes_max": 99_999}
    )
    written_out = to_toml(policy)
    assert Policy.load(written(tmp_path, written_out)) == policy
    assert max(map(len, written_out.split("\n"))) < 1_100


def test_an_example_is_added_to_those_of_the_policy_that_is_extended(tmp_path: Path) -> None:
    written(tmp_path, MINE)
    other = tmp_path / "other.toml"
    more = '[guidance.examples.sum]\nquestion = "What sum?"\nreply = "x"\n'
    other.write_text(f'extends = "./mine.toml"\n{more}')
    assert [each.question for each in Policy.load(other).own_guidance().examples] == [
        "How many?",
        "What sum?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "Dates",
            "Dates\n" * 2_800,
            "mine.toml:4: guidance.instructions: the instructions take 16816 bytes",
        ),
        (
            "print",
            "print\n" * 4_100,
            "guidance: the instructions and examples take 24657 bytes, 24576",
        ),
        ("instructions =", "examples_max = 0\ninstructions =", "guidance.examples: the examples are 1, 0 "),
        ('question = "How many?"\n', "", "guidance.examples.count.question: is missing"),
        ('"How many?"', '""', "guidance.examples.count.question: String should have at least 1 character"),
        ("examples.count", 'examples."a b"', "guidance.examples"),
        ('"How many?"', '"\\u001b"', "guidance.examples.count.question"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(PolicyError) as wrong:
        Policy.load(written(tmp_path, MINE.replace(old, new)))
    assert said in wrong.value.message
