"""A policy that extends another one: what it comes to, and what is refused, by file and line."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.builtin import builtin_names, builtin_path
from rlm_wasm.policy.extends import EXTENDS_DEPTH_MAX, sandbox_at_a_glance
from rlm_wasm.policy.inherit import read_inherited
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml, with_comments

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str, name: str = "p.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def problems(path: Path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    return caught.value.message.replace(f"{path.parent}{os.sep}", "").splitlines()


@pytest.mark.parametrize("name", builtin_names())
def test_a_file_that_only_extends_is_the_policy_that_it_extends(write: Write, name: str) -> None:
    assert Policy.load(write(f'extends = "{name}"\n')) == Policy.builtin(name)


def test_what_differs_is_changed_and_nothing_else(write: Write) -> None:
    found = Policy.load(write('extends = "strict"\n[cell]\nfuel_max = 7\n'))
    assert found == Policy.builtin("strict").replace(cell={"fuel_max": 7})


def test_a_table_of_free_keys_is_merged_and_an_array_replaced(write: Write) -> None:
    prices = "input_microdollars_per_mtok = 1\noutput_microdollars_per_mtok = 2\n"
    text = 'extends = "strict"\n[models]\nchild = ["openai:mine", "openai:gpt-5"]\n'
    found = Policy.load(write(f'{text}[models.prices."openai:mine"]\n{prices}'))
    assert set(found.models.prices) == {"openai:gpt-5", "openai:gpt-5-mini", "openai:mine"}
    assert found.models.child == ("openai:mine", "openai:gpt-5")


def test_a_path_is_relative_to_the_file_that_says_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write('extends = "../base.toml"\n[cell]\nfuel_max = 5\n', "team/mine.toml")
    write('extends = "strict"\n[cell]\nfuel_max = 7\nstderr_bytes_max = 9\n', "base.toml")
    write("not a policy", "elsewhere/base.toml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    cell = Policy.open("../team/mine.toml").cell
    assert (cell.fuel_max, cell.stderr_bytes_max) == (5, 9)


def test_a_built_in_name_means_the_built_in_policy_and_a_path_to_such_a_file_the_file(write: Write) -> None:
    write('extends = "standard"\n', "strict")
    assert Policy.load(write('extends = "strict"\n')) == Policy.builtin("strict")
    assert Policy.load(write('extends = "./strict"\n')) == Policy.builtin("standard")


def test_an_absolute_path_is_taken_as_it_is(write: Write) -> None:
    base = write('extends = "strict"\n[cell]\nfuel_max = 7\n', "far/base.toml")
    assert Policy.load(write(f'extends = "{base}"\n')).cell.fuel_max == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends = 5\n", "p.toml:1: extends: must be a string (got 5)"),
        ('extends = ["strict"]\n', "p.toml:1: extends: must be a string (got an array)"),
        ('# one\nextends = ""\n', "p.toml:2: extends: must be a name or path of 1 to 1024 characters"),
        (f'extends = "{"a" * 1025}"\n', "p.toml:1: extends: must be a name or path of 1 to 1024 characters"),
        (
            'extends = "stict"\n',
            "p.toml:1: extends: names stict, which cannot be read: No such file or directory",
        ),
        ('extends = "."\n', 'p.toml:1: extends: names ".", which cannot be read: Is a directory'),
        (
            'extends = "a\\u0000b"\n',
            'p.toml:1: extends: names "a\\u0000b", which cannot be read: not a usable path',
        ),
        ('[cell]\nextends = "strict"\n', "p.toml:2: cell.extends: stands above the first table of its file"),
        ('[extends]\nname = "strict"\n', "p.toml:1: extends: must be a string (got a table)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_extends_is_told_by_line(write: Write, text: str, said: str) -> None:
    assert said in problems(write(text))


def test_a_parent_that_cannot_be_read_says_what_may_stand_there(write: Write) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.load(write('extends = "stict"\n'))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("built-in policies: container, standard, strict")


def test_a_circle_is_refused_however_it_is_spelt(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write('extends = "sub/../a.toml"\n', "b.toml")
    assert problems(write('extends = "b.toml"\n', "a.toml")) == [
        'b.toml:1: extends: goes in a circle: "b.toml" -> "sub/../a.toml"'
    ]
    (tmp_path / "link.toml").symlink_to("self.toml")
    assert problems(write('extends = "link.toml"\n', "self.toml")) == [
        'self.toml:1: extends: goes in a circle: "link.toml"'
    ]


@pytest.mark.parametrize("more", [0, 1])
def test_the_depth_is_bounded(write: Write, more: int) -> None:
    top = write('extends = "strict"\n', "1.toml")
    for number in range(2, EXTENDS_DEPTH_MAX + 1 + more):
        top = write(f'extends = "{number - 1}.toml"\n', f"{number}.toml")
    if not more:
        assert Policy.load(top) == Policy.builtin("strict")
    else:
        assert problems(top) == [f"1.toml:1: extends: goes on for more than {EXTENDS_DEPTH_MAX} policies"]


def test_problems_are_told_in_the_file_where_they_are_own_file_first(write: Write) -> None:
    write('extends = "strict"\n\n[cell]\nsource_bytes_max = -2\n', "base.toml")
    path = write('extends = "base.toml"\n[cell]\nfuel_max = -1\nfuel_maxx = 5\n')
    assert problems(path) == [
        "p.toml:3: cell.fuel_max: must be greater than 0 (got -1)",
        "p.toml:4: cell.fuel_maxx: unknown key; did you mean `fuel_max`?",
        "base.toml:4: cell.source_bytes_max: must be greater than 0 (got -2)",
    ]


def test_a_syntax_error_of_the_parent_is_told_in_the_parent(write: Write) -> None:
    write('extends = "strict"\n[cell\n', "base.toml")
    assert problems(write('extends = "base.toml"\n'))[0].startswith("base.toml:2: is not valid TOML")


@pytest.mark.parametrize(
    ("changed", "line", "key"),
    [
        ("[sandbox]\nmemory_bytes_max = 100_000_000", 3, "sandbox.context_bytes_max"),
        ("[sandbox]\ncontext_bytes_max = 100_000_000", 3, "sandbox.whole_context_chars_max"),
        ('[sandbox]\nisolation = "inline"', 3, "sandbox.require_lockdown"),
        ("[run]\n\nwall_ms_max = 10", 4, "cell.wall_ms_max"),
    ],
)
def test_a_rule_that_a_changed_key_breaks_is_told_where_that_stands(
    write: Write, changed: str, line: int, key: str
) -> None:
    """The other key of the rule is in a policy that was right before."""
    assert any(
        each.startswith(f"p.toml:{line}: {key}: ")
        for each in problems(write(f'extends = "strict"\n{changed}\n'))
    )


def test_that_holds_for_what_was_changed_on_the_way_too(write: Write) -> None:
    write('extends = "strict"\n[cell]\nrequests_max = 9\n', "base.toml")
    (found,) = problems(write('extends = "base.toml"\n'))
    assert found.startswith("base.toml:3: boundary.batch_items_max: must be at most cell.requests_max")


def test_what_a_replaced_value_held_has_no_place_any_more(write: Write) -> None:
    write('extends = "strict"\n[models]\nchild = [\n"openai:gpt-5",\n"openai:gpt-5-mini",\n]\n', "base.toml")
    path = write('extends = "base.toml"\n[models]\nchild = ["bad"]\n')
    assert problems(path) == [
        'p.toml:3: models.child.0: each must be "provider:model", for example "openai:gpt-5-mini"'
    ]
    assert ("models", "child", 1) not in read_inherited(path).places


def test_extends_is_for_files_alone() -> None:
    """A log's text is somebody else's, and opens no file."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_mapping({"extends": "strict"})
    assert (
        "policy: extends: is a key of files alone; in Python, change a policy with its method replace"
        in str(caught.value)
    )


def test_the_text_in_force_is_the_whole_policy_without_a_word_of_extends(write: Write) -> None:
    path = write('extends = "strict"\n[cell]\nfuel_max = 7\n')
    text = to_toml(Policy.load(path))
    assert "extends" not in text
    assert Policy.from_mapping(tomllib.loads(text)) == Policy.load(path)
    write(text, "whole.toml")
    assert to_toml(Policy.load(path.parent / "whole.toml")) == text


def test_a_glance_follows_what_is_extended(write: Write) -> None:
    assert sandbox_at_a_glance("strict", "isolation") == "session"
    write('extends = "standard"\n[sandbox]\nisolation = "inline"\n', "base.toml")
    assert sandbox_at_a_glance(str(write('extends = "base.toml"\n')), "isolation") == "inline"
    circle = write('extends = "p.toml"\n')
    assert sandbox_at_a_glance(str(circle), "isolation") is None


def shown(path: Path) -> list[str]:
    document = read_inherited(path)
    policy = Policy.from_mapping(document.data)
    text = with_comments(policy, document.remarks)
    assert Policy.from_mapping(tomllib.loads(text)) == policy
    return text.splitlines()


@pytest.mark.parametrize("name", builtin_names())
def test_every_comment_of_a_built_in_policy_is_shown_above_the_same_key(name: str) -> None:
    """The file's own lines are the model: each comment, and what comes after it."""
    wanted = [line for line in builtin_path(name).read_text(encoding="utf-8").splitlines() if line]
    got = [line for line in shown(builtin_path(name)) if line]
    for number, line in enumerate(wanted[:-1]):
        if line.startswith("#"):
            assert wanted[number + 1].split("=")[0] in [
                after.split("=")[0] for before, after in itertools.pairwise(got) if before == line
            ]


def test_comments_come_from_where_the_value_comes_from(write: Write) -> None:
    path = write(
        '# mine\n\n# why\nextends = "strict"  # it is\n\n# cells\n[cell]\n# a little\nfuel_max = 7  # seven\n'
        "stderr_bytes_max = 5\n\n[models]\n# several\nchild = [  # one\n'openai:gpt-5', # two\n]\n# the end\n"
    )
    lines = shown(path)
    assert lines[:4] == ["# mine", "# why", "# it is", "#"]
    assert lines[4].startswith("# strict: ")
    at = lines.index("[cell]")
    assert lines[at - 1 : at + 3] == ["# cells", "[cell]", "# a little", "fuel_max = 7  # seven"]
    at = lines.index("stderr_bytes_max = 5")
    assert lines[at - 1].startswith("stdout_bytes_max")  # what strict says of its own number is gone
    at = lines.index('child = ["openai:gpt-5"]')
    assert lines[at - 3 : at] == ["# several", "# one", "# two"]
    assert lines[-1] == "# the end"


def test_a_comment_is_shown_without_what_a_terminal_obeys_or_what_reorders_it(write: Write) -> None:
    path = write('extends = "strict"\n[cell]\n# a\u202eb\tc\nfuel_max = 7\n')
    assert "# a\\U0000202Eb\tc" in shown(path)


def test_names_of_any_length_and_form_are_shown_whole(write: Write) -> None:
    """A digest of a text that was cut would be that of another policy."""
    long = "openai:" + "m" * 200
    path = write(
        f'extends = "strict"\n[models.prices."{long}"]\ninput_microdollars_per_mtok = 0\n'
        'output_microdollars_per_mtok = 0\n[permits.weights]\n"a b.c" = 2\n'
    )
    assert long in Policy.from_mapping(tomllib.loads(to_toml(Policy.load(path)))).models.prices
    assert shown(path)
