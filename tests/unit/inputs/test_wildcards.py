"""Paths with wildcards, as a shell matches them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.inputs.wildcards import WildPath, wild_path
from tests.unit.inputs.calm import CALM


@pytest.mark.parametrize(
    ("text", "folder", "names"),
    [
        ("*.csv", ".", ("*.csv",)),
        ("data/*.csv", "data", ("*.csv",)),
        ("/var/log/**/x.?", "/var/log", ("**", "x.?")),
        ("/*", "/", ("*",)),
        ("a//[bc]//d", "a/", ("[bc]", "d")),
    ],
)
def test_the_folder_before_the_first_wildcard_is_where_to_look(
    text: str, folder: str, names: tuple[str, ...]
) -> None:
    assert wild_path(text) == WildPath(folder, names)


def test_a_path_without_wildcards_is_none() -> None:
    assert wild_path("data/x.csv") is None


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "a/b.csv", False),
        ("*.csv", ".a.csv", False),
        (".*", ".a", True),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "a/b/c.csv", True),
        ("**/*.csv", "a/.b/c.csv", False),
        ("**", "a/b/c.csv", True),
        ("a*/**/c", "ab/x/y/c", True),
        ("a*/**/c", "b/x/c", False),
        ("a/**", "a", True),
        ("**/.git/*", "x/.git/config", True),
        ("**/**", "a", True),
        ("**/" * 300 + "x", "/".join("a" * 300), False),
    ],
)
def test_a_path_matches_as_in_a_shell(pattern: str, path: str, matches: bool) -> None:
    wild = wild_path(pattern)
    assert wild is not None
    assert wild.matches(path) is matches


def test_only_folders_that_may_hold_a_match_are_entered() -> None:
    wild = wild_path("a*/x/*.csv")
    assert wild is not None
    assert [wild.enters(path) for path in ("ab", "b", "ab/x", "ab/y", "ab/x/z")] == [
        True,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("pattern", "path", "enters"),
    [
        ("**/*.csv", "a/b", True),
        ("**/*.csv", ".git", False),
        ("**/*.csv", "a/.git", False),
        ("a*/**/x", "b", False),
        ("a*/**/x", "ab/.cache", False),
        ("**/.git/*", "x/.git", True),
        ("**/.git/*", "x/.git/hooks", False),
        ("**/.git/**", "x/.git/hooks", True),
        ("**", "a", True),
        ("**", ".a", False),
    ],
)
def test_over_folders_none_is_entered_in_which_nothing_can_match(
    pattern: str, path: str, enters: bool
) -> None:
    wild = wild_path(pattern)
    assert wild is not None
    assert wild.enters(path) is enters


@CALM
@given(
    st.lists(st.sampled_from(["a", ".a", "b", "*", "?", ".*", "**"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", ".a", "b"]), min_size=1, max_size=5),
)
def test_every_folder_above_a_match_is_entered(pattern: list[str], path: list[str]) -> None:
    wild = WildPath(".", tuple(pattern))
    if wild.matches("/".join(path)):
        assert all(wild.enters("/".join(path[:depth])) for depth in range(1, len(path)))
