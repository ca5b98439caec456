"""Paths with wildcards, as a shell has them: ``*`` and ``?`` within a name, ``**`` over folders."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

_WILD: Final = frozenset("*?[")
_ANY_FOLDERS: Final = "**"


class WildPath(NamedTuple):
    """The folder before the first wildcard, and the names of the pattern below it."""

    folder: str
    names: tuple[str, ...]

    def matches(self, path: str) -> bool:
        """Return whether a path below the folder is one of the pattern's. A leading dot has to be named."""
        return _match(path.split("/"), self.names)

    def enters(self, path: str) -> bool:
        """Return whether something below this path may be one of the pattern's."""
        names = path.split("/")
        fixed = (
            self.names[: self.names.index(_ANY_FOLDERS)] if _ANY_FOLDERS in self.names else self.names[:-1]
        )
        if _ANY_FOLDERS not in self.names and len(names) > len(fixed):
            return False
        return all(map(_name, names, fixed))


def wild_path(text: str) -> WildPath | None:
    """Return a path's parts if it has a wildcard."""
    names = text.split("/")
    first = next((at for at, name in enumerate(names) if _WILD & set(name)), None)
    if first is None:
        return None
    folder = "/".join(names[:first]) or ("/" if first else ".")
    return WildPath(folder, tuple(name for name in names[first:] if name))


def _match(path: Sequence[str], pattern: Sequence[str]) -> bool:
    # For each name of the pattern: after how many names of the path it may be reached.
    reached = {0}
    for name in pattern:
        if name == _ANY_FOLDERS:
            reached = {at for start in reached for at in _over_folders(path, start)}
        else:
            reached = {at + 1 for at in reached if at < len(path) and _name(path[at], name)}
    return len(path) in reached


def _over_folders(path: Sequence[str], start: int) -> list[int]:
    found = [start]
    while start < len(path) and not path[start].startswith("."):
        start += 1
        found.append(start)
    return found


def _name(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
