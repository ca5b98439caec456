"""Patterns of paths as .gitignore has them, matched in time linear in the path.

A folder may bring its own patterns and names, so neither may cost more than their length: pathspec reads a
pattern, RE2 searches it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

PATTERN_CHARS_MAX: Final = 1_000
_MACHINE_BYTES_MAX: Final = 1 << 20
# The group in which pathspec marks that a path lies below what a pattern names.
_BELOW: Final = "ps_d"


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern, compiled by RE2, and whether it takes what it matches or gives it free again."""

    compiled: Any
    takes: bool
    # It names what is below a folder, and not the folder.
    below: bool
    # Of the regular expression.
    chars: int


class PathPatterns:
    """Patterns of one place, the last one that matches a path counting."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Take the lines of an ignore file. Raises ValueError, which says which line is no pattern."""
        self._patterns: Final[list[PathPattern]] = [
            each for n, line in enumerate(lines, 1) if (each := _pattern(n, line))
        ]

        self._chars: Final = sum(each.chars for each in self._patterns)

    def __len__(self) -> int:
        return len(self._patterns)

    def steps(self, path: str) -> int:
        """Return how many steps of RE2's a verdict about a path takes at most, to within a factor."""
        return self._chars * (len(os.fsencode(path)) + 1)

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Return whether the entry itself is taken, or given free; None: no pattern names it.

        What is above it has been asked about before.
        """
        subject = _subject(f"{path}/" if is_folder else path)
        for pattern in reversed(self._patterns):
            found = pattern.compiled.search(subject)
            if found is None or (is_folder and pattern.below and found.end() == len(subject)):
                continue
            if found.end() == len(subject) or _BELOW not in found.groupdict() or found.group(_BELOW) is None:
                return pattern.takes
        return None

    def covers(self, path: str) -> bool:
        """Return whether a file, or a folder that it is in, is taken."""
        subject = _subject(path)
        for pattern in reversed(self._patterns):
            if pattern.compiled.search(subject) is not None:
                return pattern.takes
        return False


def _subject(path: str) -> str:
    # What a name has that is no UTF-8, no pattern can name: a question mark stands for it.
    return path.encode("utf-8", "replace").decode()


def _pattern(number: int, line: str) -> PathPattern | None:
    # Here and not above: they take time to load, and most commands have no folder.
    import re2  # type: ignore[import-not-found]
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    if len(line) > PATTERN_CHARS_MAX:
        raise ValueError(f"line {number} is longer than {PATTERN_CHARS_MAX} characters")
    try:
        source, takes = GitIgnoreSpecPattern.pattern_to_regex(line)
        if source is None or takes is None:
            return None  # a comment, or nothing
        # A name may have a line break, which a dot means as well.
        compiled = re2.compile(str(source), re2.DOTALL, max_mem=_MACHINE_BYTES_MAX)
    except (ValueError, re2.error, RecursionError, OverflowError) as error:
        raise ValueError(f"line {number} is no pattern: {line[:100]!a}") from error
    if not isinstance(compiled, re2.Pattern):
        raise ValueError(f"line {number} needs more than linear time: {line[:100]!a}")
    return PathPattern(compiled, takes, str(source).endswith("/"), len(str(source)))
