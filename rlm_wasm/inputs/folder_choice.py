"""The choice of files in a folder: by the user's patterns, its ignore files, and what is private."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.path_patterns import PathPatterns
from rlm_wasm.inputs.wildcards import WildPath

IGNORE_FILE: Final = ".gitignore"
# The bookkeeping of version control, with every version of everything, and where people keep their keys.
_PRIVATE: Final = (".git", ".hg", ".svn")
_PRIVATE_BEGINNING: Final = ".env"


class LeftOut(StrEnum):
    """Why something of a folder is not read, as a person is told it after how many there are."""

    PRIVATE = "private (--all takes it)"
    IGNORED = f"named by {IGNORE_FILE} (--all takes it)"
    LINK = "a link"
    NO_FILE = "a socket, pipe or device"
    MOUNT = "another file system"
    PATH = "a path too long for the guest"
    UNREADABLE = "unreadable, gone, or changed while it was read"
    BINARY = "no text (--encoding names another encoding; given by itself, --bytes takes it)"
    DAMAGED = "damaged"
    NO_TEXT = "a document that is encrypted or has no text (given by itself, it says which)"
    NO_IMAGE = "a document, for which there is no image (make it with: rlm-wasm guest image data)"


class Ignoring(NamedTuple):
    """The ignore file of a folder: where that is, as a path that ends with a slash, and its patterns."""

    below: str
    patterns: PathPatterns


@dataclass(frozen=True, slots=True)
class FolderChoice:
    """What of a folder a user wants. `everything`: also what is private or ignored."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    everything: bool = False
    _include: PathPatterns = field(init=False)
    _exclude: PathPatterns = field(init=False)

    def __post_init__(self) -> None:
        """Read the patterns. Raises UsageError for what is none."""
        for name, lines in (("include", self.include), ("exclude", self.exclude)):
            try:
                object.__setattr__(self, f"_{name}", PathPatterns(lines))
            except ValueError as error:
                raise UsageError(f"--{name} is no pattern: {error}") from error

    def why_not(self, path: str, *, is_folder: bool, wild: WildPath | None = None) -> LeftOut | bool:
        """Return why an entry is left out, True where nobody wanted it, and False where it is taken.

        A folder is taken if something in it may be. What ignore files say is `ignored`'s.
        """
        if self._exclude.verdict(path, is_folder=is_folder):
            return True
        if wild is not None and not (wild.enters(path) if is_folder else wild.matches(path)):
            return True
        if not is_folder and len(self._include) and not self._include.covers(path):
            return True
        if not self.everything and is_private(path.rpartition("/")[2]):
            return LeftOut.PRIVATE
        return False


def ignored(path: str, ignoring: Sequence[Ignoring], *, is_folder: bool) -> bool:
    """Return whether ignore files, those of outer folders first, name an entry."""
    for each in reversed(ignoring):  # the nearest one counts
        verdict = each.patterns.verdict(path.removeprefix(each.below), is_folder=is_folder)
        if verdict is not None:
            return verdict
    return False


ANY_FILE: Final = FolderChoice()


def is_private(name: str) -> bool:
    """Whether something of this name is private: what version control keeps, and where people keep keys."""
    folded = name.casefold()
    return folded in _PRIVATE or folded.startswith(_PRIVATE_BEGINNING)
