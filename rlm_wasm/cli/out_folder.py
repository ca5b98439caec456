"""The folder that what a guest left is copied into. Its names and sizes are the guest's: none is believed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rlm_wasm.cli.output import clean, failure, note
from rlm_wasm.errors import BoundaryViolation, GuestException, RlmWasmError, UsageError
from rlm_wasm.protocol.file_listing import GuestFile

LEFT_IN: Final = "/out"
# Each file is asked for by a cell, and no limit of the policy counts all of these together.
COPY_SECONDS_MAX: Final = 300
# How many names a path below /out may have: what lies deeper is not copied.
NAMES_MAX: Final = 64
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What is wrong with one name here, a link or a pipe in its way too. Anything else is wrong with all of them.
_OF_A_NAME: Final = frozenset(
    {errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
)


ListFiles = Callable[[str], Awaitable[tuple[GuestFile, ...]]]


class ReadFile(Protocol):
    """Reads a whole file of a session's."""

    async def __call__(self, path: str, *, bytes_max: int | None = None) -> bytes:
        """Return it."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How many files were copied, and the paths of what was not.

    `left`: links, names no terminal may see, what lies too deep. `refused`: what this machine would not
    write, and why.
    """

    files: int
    left: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()


def look_at(folder: str | None) -> None:
    """Raise UsageError for a folder that cannot be written to: before anything is run, or paid for."""
    if folder is None:
        return
    if not folder:  # as of a variable that is not set
        raise UsageError("--out is empty, and names no folder")
    place = Path(folder)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"--out: cannot write {folder}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--out: cannot write {folder}: {os.strerror(errno.EACCES)}")


async def copy_and_tell(
    list_files: ListFiles,
    read_file: ReadFile,
    folder: Path,
    *,
    bytes_max: int,
    seconds_max: float = COPY_SECONDS_MAX,
) -> bool:
    """Do what `copy_out` does and tell the person of it; whether all went well.

    Whatever copying meets is told here: what the code has found must not be lost with it.
    """
    import anyio

    copied, problem = None, f"it took more than {seconds_max} seconds"
    try:
        with anyio.move_on_after(seconds_max):
            copied = await copy_out(list_files, read_file, folder, bytes_max=bytes_max)
    except RlmWasmError as error:
        problem = error.message
    except anyio.get_cancelled_exc_class():
        failure(f"not all that the code left in {LEFT_IN} was copied: it was ended before that")
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours here costs files, not the answer
        problem = f"a bug of ours, {type(error).__name__}: {error}"
    if copied is None:
        failure(f"not all that the code left in {LEFT_IN} was copied: {problem}")
        return False
    note(f"{copied.files} files copied into {folder}")
    if copied.left:
        count = len(copied.left)
        note(
            "not copied, because they are links, have names that no terminal may see, or lie more than "
            f"{NAMES_MAX} folders deep: {count}"
        )
    if copied.refused:
        path, why = copied.refused[0]
        failure(f"{len(copied.refused)} not copied: cannot write {path[:200]!a}: {why}")
    return not copied.refused


async def copy_out(list_files: ListFiles, read_file: ReadFile, folder: Path, *, bytes_max: int) -> Copied:
    """Copy what a session has in /out into `folder`, which is made if it is not there.

    Files of the same name are replaced. No link is followed, the guest's or one in the folder. A name that
    cannot be written is left out. No more folders are made than the guest lists.

    Raises:
        UsageError: the folder cannot be written to, or there are more than `bytes_max` bytes.
        GuestError: the guest could not tell, or told nonsense.
    """
    try:
        found = await list_files(LEFT_IN)
    except GuestException as error:
        if error.type_name != "FileNotFoundError":
            raise
        found = ()  # the code removed it
    wanted, left = _sorted_out(found)
    copied, refused = 0, []
    for path, names in wanted:
        data = await read_file(path, bytes_max=bytes_max)
        bytes_max -= len(data)
        try:
            _write(folder, names, data)
        except UnicodeEncodeError:
            refused.append((path, "it is no name"))
        except OSError as error:
            if error.errno not in _OF_A_NAME:
                raise UsageError(f"cannot write {folder / '/'.join(names)}: {error.strerror}") from error
            refused.append((path, str(error.strerror)))
        else:
            copied += 1
    return Copied(copied, left, tuple(refused))


def _sorted_out(found: tuple[GuestFile, ...]) -> tuple[list[tuple[str, list[str]]], tuple[str, ...]]:
    """Return the files to copy, each with its names below /out, and the paths of what is left.

    A path may imply thousands of folders that no listing counts, so those above a file are listed as well.
    """
    folders = {LEFT_IN} | {file.path for file in found if file.kind == "folder"}
    wanted: list[tuple[str, list[str]]] = []
    left: list[str] = []
    for file in found:
        if file.path != LEFT_IN and (
            not file.path.startswith(f"{LEFT_IN}/") or file.path.rpartition("/")[0] not in folders
        ):
            raise BoundaryViolation(f"the guest lists {file.path[:100]!a}, and not the folder it is in")
        if file.kind == "folder":
            continue
        names = file.path.removeprefix(LEFT_IN).split("/")[1:]
        seen = clean(file.path) == file.path and "\n" not in file.path
        if file.kind == "file" and 0 < len(names) <= NAMES_MAX and seen:
            wanted.append((file.path, names))
        else:
            left.append(file.path)
    return wanted, tuple(left)


def _write(folder: Path, names: list[str], data: bytes) -> None:
    # The guest's own bytes, whatever this process takes the file system's encoding to be.
    *above, name = [name.encode("utf-8", "surrogateescape") for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error
    try:
        for part in above:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            outer, here = here, os.open(part, _FOLDER, dir_fd=here)
            os.close(outer)
        _replace(here, name, data)
    finally:
        os.close(here)


def _replace(folder: int, name: bytes, data: bytes) -> None:
    """Put a whole file in the place of whatever has its name, a link too."""
    temporary = f".rlm-wasm-{secrets.token_hex(8)}"
    with open(os.open(temporary, _NEW, 0o666, dir_fd=folder), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
