"""The files of a folder, opened one after the other without ever leaving it.

Each entry is looked at, opened and looked at again by the descriptor of the folder that holds it: no path is
followed twice, and what was put in an entry's place meanwhile is not read. No link is followed; sockets,
pipes and devices are not opened; what is mounted in a folder is not entered. Entries are counted before they
are kept.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rlm_wasm.errors import InputError, InputTooLarge
from rlm_wasm.inputs.folder_choice import IGNORE_FILE, FolderChoice, Ignoring, LeftOut, ignored
from rlm_wasm.inputs.given import LeftOutFiles
from rlm_wasm.inputs.open_file import Opener, OpenFile, shown, unreadable
from rlm_wasm.inputs.path_patterns import PathPatterns
from rlm_wasm.inputs.wildcards import WildPath
from rlm_wasm.limits import INPUT_IGNORE_BYTES_MAX, INPUT_IGNORE_STEPS_MAX, InputLimits

# What the guest's paths may have, /inputs and the folder's name included: 4,095 bytes.
_PATH_BYTES_MAX: Final = 3_800
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without a wait for a writer, should it be a pipe by now.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Folder:
    """A folder that a user named, walked once. `left_out` says what was not taken, by the reason."""

    def __init__(
        self,
        folder: str,
        choice: FolderChoice,
        limits: InputLimits,
        wild: WildPath | None = None,
        opener: Opener = os.open,
    ) -> None:
        self._folder = folder
        self._choice = choice
        self._limits = limits
        self._wild = wild
        self._opener = opener
        self._entries = 0
        self._steps = 0
        self._device = 0
        self.left_out: dict[LeftOut, LeftOutFiles] = {}

    def leave_out(self, path: str, reason: LeftOut) -> None:
        """Note that something is not taken."""
        found = self.left_out.setdefault(reason, LeftOutFiles(0, path))
        found.count += 1

    def files(self) -> Iterator[tuple[str, OpenFile]]:
        """Yield each file that is taken, open, by its path below the folder, in the order of the names.

        Raises:
            InputTooLarge: it has more entries, or is deeper, than the policy allows, or its ignore files are
                too much to look for.
            InputError: it cannot be read, or an ignore file in it cannot.
        """
        try:
            descriptor = self._opener(self._folder, _FOLDER)
        except (OSError, ValueError) as error:
            raise unreadable(self._folder, error) from error
        with _closing(descriptor):
            self._device = os.fstat(descriptor).st_dev
            yield from self._walk(descriptor, "", 1, [])

    def _walk(
        self, folder: int, below: str, depth: int, ignoring: list[Ignoring]
    ) -> Iterator[tuple[str, OpenFile]]:
        if depth > self._limits.depth_max:
            raise self._too_many("folders in one another", "inputs.depth_max", self._limits.depth_max)
        names = self._names(folder)
        if IGNORE_FILE in names and not self._choice.everything:
            ignoring = [*ignoring, self._ignoring(folder, below)]
        for name in names:
            path = below + name
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                self.leave_out(path, LeftOut.UNREADABLE)
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            why = self._choice.why_not(path, is_folder=is_folder, wild=self._wild)
            if why is False and self._ignored(path, ignoring, is_folder=is_folder):
                why = LeftOut.IGNORED
            if why is False:
                why = self._kind(status, path)
            if isinstance(why, LeftOut):
                self.leave_out(path, why)
            if why is not False:
                continue
            try:
                opened = os.open(name, _FOLDER | os.O_NOFOLLOW if is_folder else _FILE, dir_fd=folder)
            except OSError:
                self.leave_out(path, LeftOut.UNREADABLE)
                continue
            with _closing(opened):
                if not os.path.samestat(status, os.fstat(opened)):
                    self.leave_out(path, LeftOut.UNREADABLE)
                elif is_folder:
                    yield from self._walk(opened, f"{path}/", depth + 1, ignoring)
                else:
                    yield path, OpenFile(os.path.join(self._folder, path), opened, borrowed=True)

    def _ignored(self, path: str, ignoring: list[Ignoring], *, is_folder: bool) -> bool:
        self._steps += sum(each.patterns.steps(path) for each in ignoring)
        if self._steps > INPUT_IGNORE_STEPS_MAX:
            raise InputTooLarge(
                self._folder,
                f"{shown(self._folder)} has too many entries to look each up in its {IGNORE_FILE} files "
                f"(more than {INPUT_IGNORE_STEPS_MAX} steps); leave folders out with --exclude, give a part "
                "of it, or take what is ignored as well with --all",
                limit=INPUT_IGNORE_STEPS_MAX,
            )
        return ignored(path, ignoring, is_folder=is_folder)

    def _kind(self, status: os.stat_result, path: str) -> LeftOut | bool:
        """Return why something of this kind is left out; False: it is not."""
        if len(os.fsencode(path)) > _PATH_BYTES_MAX:
            return LeftOut.PATH
        if stat.S_ISDIR(status.st_mode):
            return LeftOut.MOUNT if status.st_dev != self._device else False
        if stat.S_ISREG(status.st_mode):
            return False
        return LeftOut.LINK if stat.S_ISLNK(status.st_mode) else LeftOut.NO_FILE

    def _names(self, folder: int) -> list[str]:
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._count()
                    names.append(entry.name)
        except OSError as error:
            raise unreadable(self._folder, error) from error
        return sorted(names)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries_max:
            raise self._too_many(
                "entries and lines of ignore files", "inputs.entries_max", self._limits.entries_max
            )

    def _too_many(self, what: str, key: str, limit: int) -> InputTooLarge:
        return InputTooLarge(
            self._folder,
            f"{shown(self._folder)} has more than {limit} {what}, the most that {key} allows; raise that key "
            "in the policy, leave folders out with --exclude, or give a part of it",
            key=key,
            limit=limit,
        )

    def _ignoring(self, folder: int, below: str) -> Ignoring:
        """Read the ignore file of a folder. What it says must be known: it may be what hides a key."""
        file = os.path.join(self._folder, below + IGNORE_FILE)
        try:
            opened = os.open(IGNORE_FILE, _FILE, dir_fd=folder)
        except OSError as error:
            raise self._bad_ignore_file(file, error.strerror or "unreadable") from error
        with _closing(opened):
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise self._bad_ignore_file(file, "it is no file")
            source = OpenFile(file, opened, borrowed=True)
            try:
                data = b"".join(source.pieces(INPUT_IGNORE_BYTES_MAX, "an ignore file"))
                lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]
                for _ in lines:
                    self._count()
                return Ignoring(below, PathPatterns(lines))
            except (InputError, ValueError) as error:
                if isinstance(error, InputTooLarge) and error.key == "inputs.entries_max":
                    raise
                raise self._bad_ignore_file(file, str(error)) from error

    def _bad_ignore_file(self, file: str, why: str) -> InputError:
        return InputError(
            file, f"cannot tell what {shown(file)} leaves out: {why}; --all takes what it names as well"
        )


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
