"""Folders that somebody who is not the user of this machine may name files in, and nothing outside them.

Whether a path lies in one of them is told by its text, before anything of it is looked at. It is then walked
name by name from the descriptor of that folder, and no link is followed: what is put in the place of a part
of it meanwhile leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.folder_choice import is_private
from rlm_wasm.inputs.open_file import shown, unreadable

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# A pipe is not waited for; it is refused once it is open.
_ALWAYS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OUTSIDE: Final = "it lies outside the folders that may be read"
_LINK: Final = "it is, or lies behind, a link, and no link is followed"


class _HeldFolder(NamedTuple):
    # As it was named, and as it is called without links.
    texts: tuple[str, ...]
    descriptor: int


class Roots:
    """Folders, held open, and the opener of what lies in them. Raises UsageError where one is no folder."""

    def __init__(self, folders: Sequence[str]) -> None:
        found = []
        for folder in folders:
            try:
                descriptor = os.open(folder, _FOLDER)
            except (OSError, ValueError) as error:
                raise unreadable(folder, error) from error
            weakref.finalize(self, os.close, descriptor)
            texts = dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder)))
            found.append(_HeldFolder(tuple(texts), descriptor))
        self._roots: Final = tuple(found)

    def __bool__(self) -> bool:
        return bool(self._roots)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return tuple(root.texts[0] for root in self._roots)

    def placed(self, path: str) -> str:
        """Return the whole path of one as somebody named it; nothing of it is looked at but its text.

        One that does not begin with a slash is below the first root, or below that whose own name it begins
        with. Raises UsageError for one outside all of them, or in something private (`.git`, `.env`).
        """
        if not path or "\0" in path or ".." in path.split("/"):
            raise UsageError(
                f"{shown(path)[:500]} is no path of a file or folder: it is empty, or has a NUL or `..`"
            )
        if not path.startswith("/"):
            first = path.split("/")[0]
            own = (name for name in self.names if os.path.basename(name) == first and len(self.names) > 1)
            above = next(own, None)
            rest = path if above is None else path[len(first) :].lstrip("/")
            path = os.path.join(above or self.names[0], rest)
        below = self._below(path)
        if below is None:
            raise UsageError(
                f"cannot read {shown(path)[:500]}: {_OUTSIDE}: {', '.join(map(shown, self.names))}"
            )
        if private := next(filter(is_private, below[1]), None):
            raise UsageError(f"cannot read {shown(path)[:500]}: {shown(private)} is private")
        return path

    def open(self, path: str, flags: int) -> int:
        """Open a file or folder that lies in one of them, as `os.open` does.

        Raises:
            OSError: as that one; also of a path outside, behind a link, or of a pipe, socket or device.
        """
        below = self._below(path)
        if below is None or ".." in below[1]:
            raise PermissionError(errno.EACCES, _OUTSIDE, path)
        root, names = below
        folder = os.dup(root.descriptor)
        try:
            for name in names[:-1]:
                folder, left = self._step(folder, name, path), folder
                os.close(left)
            opened = self._last(folder, names[-1] if names else ".", flags, path)
        finally:
            os.close(folder)
        return opened

    @staticmethod
    def _step(folder: int, name: str, path: str) -> int:
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, _LINK, path) from error
            raise

    @staticmethod
    def _last(folder: int, name: str, flags: int, path: str) -> int:
        try:
            opened = os.open(name, flags | _ALWAYS, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise OSError(errno.ELOOP, _LINK, path) from error
            raise
        kind = os.fstat(opened).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            return opened
        os.close(opened)
        if stat.S_ISLNK(kind):
            raise OSError(errno.ELOOP, _LINK, path)
        raise OSError(errno.EINVAL, "it is neither a file nor a folder", path)

    def _below(self, path: str) -> tuple[_HeldFolder, list[str]] | None:
        """Return the root that a whole path lies in, and the names below it."""
        for root in self._roots:
            for text in root.texts:
                if path == text or path.startswith(text.rstrip("/") + "/"):
                    return root, [name for name in path[len(text) :].split("/") if name not in ("", ".")]
        return None
