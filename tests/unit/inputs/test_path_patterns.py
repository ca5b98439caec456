"""Patterns of paths mean what they mean to git, and cost time in proportion to what they meet."""

from __future__ import annotations

import pytest

from rlm_wasm.inputs.path_patterns import PATTERN_CHARS_MAX, PathPatterns


# As `git check-ignore --no-index` has them.
@pytest.mark.parametrize(
    ("lines", "path", "is_folder", "verdict"),
    [
        (["*.log"], "a.log", False, True),
        (["*.log"], "sub/a.log", False, True),
        (["*.log"], "a.log.txt", False, None),
        (["/a.log"], "sub/a.log", False, None),
        (["build/"], "build", True, True),
        (["build/"], "build", False, None),
        (["build/"], "sub/build", True, True),
        (["a/b"], "a/b", False, True),
        (["a/b"], "c/a/b", False, None),
        (["x/**"], "x", True, None),
        (["x/**"], "x/y", False, True),
        (["x/*"], "x/y", True, True),
        (["**/y"], "a/b/y", False, True),
        (["a/**/b"], "a/b", False, True),
        (["a/**/b"], "a/x/y/b", False, True),
        (["*.log", "!keep.log"], "keep.log", False, False),
        (["!keep.log", "*.log"], "keep.log", False, True),
        (["# a.log", "", "   "], "a.log", False, None),
        ([r"\#a"], "#a", False, True),
        (["[ab]?.txt"], "b1.txt", False, True),
        (["**"], "anything", True, True),
        (["*"], "anything", False, True),
        (["a*"], "a\nb", False, True),
        (["secret"], "a\nb/secret", False, True),
        (["*.key"], "\udcff.key", False, True),
        (["a "], "a", False, True),
    ],
)
def test_the_last_pattern_that_names_an_entry_decides(
    lines: list[str], path: str, is_folder: bool, verdict: bool | None
) -> None:
    assert PathPatterns(lines).verdict(path, is_folder=is_folder) is verdict


def test_what_is_below_a_folder_is_covered_with_it() -> None:
    patterns = PathPatterns(["docs/", "*.csv", "!old.csv"])
    assert [path for path in ("docs/a/b", "x.csv", "old.csv", "a.txt") if patterns.covers(path)] == [
        "docs/a/b",
        "x.csv",
    ]


@pytest.mark.threat("T-215")
def test_a_pattern_costs_no_more_than_its_length_and_that_of_the_path() -> None:
    # Python's own engine would take longer than the world is old.
    patterns = PathPatterns(["*a" * 300 + "b"])
    assert patterns.verdict("a" * 5_000, is_folder=False) is None


@pytest.mark.parametrize("line", ["x" * (PATTERN_CHARS_MAX + 1), "!"])
@pytest.mark.threat("T-215")
def test_a_line_that_is_no_pattern_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 3 is "):
        PathPatterns(["a", "b", line])
