"""Paths with wildcards, as a shell matches them."""

from __future__ import annotations

import pytest

from rlm_wasm.inputs.wildcards import WildPath, wild_path


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
