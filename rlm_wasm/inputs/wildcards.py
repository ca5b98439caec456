"""Paths with wildcards, as a shell has them: ``*`` and ``?`` within a name, ``**`` over folders."""

from __future__ import annotations

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
        return len(self.names) in self._places(path)

    def enters(self, path: str) -> bool:
        """Return whether something below this path may be one of the pattern's."""
        return any(place < len(self.names) for place in self._places(path))

    def _places(self, path: str) -> set[int]:
        """Return where in the pattern a path may have come to: how many of its names are behind it."""
        places = self._and_behind_any_folders({0})
        for name in path.split("/"):
            reached = set()
            for place in places - {len(self.names)}:
                if self.names[place] != _ANY_FOLDERS:
                    if _name(name, self.names[place]):
                        reached.add(place + 1)
                elif not name.startswith("."):
                    reached.add(place)
            places = self._and_behind_any_folders(reached)
        return places

    def _and_behind_any_folders(self, places: set[int]) -> set[int]:
        """Return these places, and those that come next where no folder at all will do."""
        found = set()
        for place in places:
            found.add(place)
            while place < len(self.names) and self.names[place] == _ANY_FOLDERS:
                place += 1
                found.add(place)
        return found


def wild_path(text: str) -> WildPath | None:
    """Return a path's parts if it has a wildcard."""
    names = text.split("/")
    first = next((at for at, name in enumerate(names) if _WILD & set(name)), None)
    if first is None:
        return None
    folder = "/".join(names[:first]) or ("/" if first else ".")
    return WildPath(folder, tuple(name for name in names[first:] if name))


def _name(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
