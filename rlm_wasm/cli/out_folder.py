"""The folder that what a guest left is copied into. Its names and sizes are the guest's: none is believed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rlm_wasm.cli.output import clean, failure, note
from rlm_wasm.errors import GuestError, GuestException, UsageError
from rlm_wasm.protocol.file_listing import GuestFile

LEFT_IN: Final = "/out"
# Each file is asked for by a cell, and no limit of the policy counts all of these together.
COPY_SECONDS_MAX: Final = 300
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


ListFiles = Callable[[str], Awaitable[tuple[GuestFile, ...]]]


class ReadFile(Protocol):
    """Reads a whole file of a session's."""

    async def __call__(self, path: str, *, bytes_max: int | None = None) -> bytes:
        """Return it."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How many files were copied, and the paths of what was not: links, and names no terminal may see."""

    files: int
    left: tuple[str, ...]


async def copy_and_tell(
    list_files: ListFiles,
    read_file: ReadFile,
    folder: Path,
    *,
    bytes_max: int,
    seconds_max: float = COPY_SECONDS_MAX,
) -> bool:
    """Do what `copy_out` does and tell the person of it; whether all went well."""
    import anyio

    copied, problem = None, f"it took more than {seconds_max} seconds"
    try:
        with anyio.move_on_after(seconds_max):
            copied = await copy_out(list_files, read_file, folder, bytes_max=bytes_max)
    except (UsageError, GuestError) as error:
        problem = error.message
    if copied is None:
        failure(f"not all that the code left in {LEFT_IN} was copied: {problem}")
        return False
    note(f"{copied.files} files copied into {folder}")
    if copied.left:
        count = len(copied.left)
        note(f"not copied, because they are links or have names that no terminal may see: {count}")
    return True


async def copy_out(list_files: ListFiles, read_file: ReadFile, folder: Path, *, bytes_max: int) -> Copied:
    """Copy what a session has in /out into `folder`, which is made if it is not there.

    Files of the same name are replaced. No link is followed, the guest's or one in the folder.

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
    copied, left = 0, []
    for file in found:
        if file.kind == "folder":
            continue
        names = file.path.removeprefix(f"{LEFT_IN}/").split("/")
        if file.kind == "link" or names[0] == "" or clean(file.path) != file.path or "\n" in file.path:
            left.append(file.path)
            continue
        data = await read_file(file.path, bytes_max=bytes_max)
        bytes_max -= len(data)
        try:
            _write(folder, names, data)
        except OSError as error:
            raise UsageError(f"cannot write {folder / '/'.join(names)}: {error.strerror}") from error
        copied += 1
    return Copied(copied, tuple(left))


def _write(folder: Path, names: list[str], data: bytes) -> None:
    *above, name = names
    folder.mkdir(parents=True, exist_ok=True)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in above:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            outer, here = here, os.open(part, _FOLDER, dir_fd=here)
            os.close(outer)
        _replace(here, name, data)
    finally:
        os.close(here)


def _replace(folder: int, name: str, data: bytes) -> None:
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
