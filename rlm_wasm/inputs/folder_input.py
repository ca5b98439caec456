"""A folder, or what a path with wildcards matches, as one input: a dict of its files' texts by paths."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rlm_wasm.errors import (
    InputDamaged,
    InputError,
    InputNotConverted,
    InputNotText,
    InputTooLarge,
    UsageError,
)
from rlm_wasm.folder_text import FolderText
from rlm_wasm.inputs.documents import MARK_WITHIN_BYTES
from rlm_wasm.inputs.file_input import BYTES_KEY, Reading, called, quoted, read_text
from rlm_wasm.inputs.folder import Folder
from rlm_wasm.inputs.folder_choice import FolderChoice, LeftOut
from rlm_wasm.inputs.given import FileRead, InputRead, LeftOutFiles
from rlm_wasm.inputs.kinds import InputKind
from rlm_wasm.inputs.open_file import OpenFile, shown, too_large
from rlm_wasm.inputs.packing import HEAD_BYTES, packing_of
from rlm_wasm.inputs.text_encoding import LOOKED_AT_BYTES, is_binary
from rlm_wasm.inputs.wildcards import WildPath
from rlm_wasm.limits import InputLimits

_SHOWN_CHARS_MAX: Final = 120
# Its name in /inputs where it has none, as the root of all.
_NO_NAME: Final = "folder"
FILES_KEY: Final = "sandbox.files_bytes_max"


def read_folder_input(name: str, source: str, reading: Reading, wild: WildPath | None = None) -> InputRead:
    """Read a folder, or what `wild` matches in it, as the input `name`.

    Files that are no text, are damaged, cannot be read or change meanwhile are left out, and noted.

    Raises:
        InputTooLarge: it has more files, bytes, entries or levels than the policy allows, or a bomb.
        InputError: it cannot be read, or has no file that could be taken.
        UsageError: it is to be given as something else than texts.
    """
    if reading.kind not in (InputKind.AUTO, InputKind.TEXT):
        raise UsageError(
            f"{shown(source)} is a folder or has wildcards, and is given as the texts of its files; "
            f"for --as {reading.kind} name one file"
        )
    place = source if wild is None else wild.folder
    folder = Folder(place, reading.choice, reading.limits, wild, reading.opener)
    texts: list[str] = []
    files: list[FileRead] = []
    folders: set[str] = set()
    left_bytes = reading.bytes_max
    for path, opened in folder.files():
        try:
            # Before all of it is read: what is no text may be of any size.
            if _is_no_text(path, opened, reading):
                folder.leave_out(path, LeftOut.BINARY)
                continue
            text, read = read_text(opened, reading, left_bytes)
        except InputTooLarge as error:
            if error.key != BYTES_KEY:
                raise _way_out(error) from error
            raise _has_more(source, path, reading.bytes_max, BYTES_KEY) from error
        except InputError as error:
            folder.leave_out(path, _reason(error))
            continue
        folders.update(_above(path))
        _check_count(source, len(texts) + 1, len(folders), reading.limits, reading.guest_files_max)
        is_text = read.document is None
        left_bytes -= max(read.unpacked_bytes, read.bytes) if is_text else len(text.encode())
        texts.append(text)
        files.append(replace(read, path=path))
    left_out = _by_words(folder)
    if not texts:
        told = f" (left out: {_told(left_out)})" if left_out else ""
        raise InputError(source, f"{shown(source)} has no file that could be read as text{told}")
    value = FolderText.of(dict(zip(_names(files), texts, strict=True)), name)
    if len(value) > reading.bytes_max:
        raise too_large(
            source, reading.bytes_max, BYTES_KEY, what=f"takes {len(value)} bytes in the guest, more"
        )
    own_name = _called(place)
    note = f"the texts of the files of {quoted(own_name)} by their paths"
    return InputRead(name, value, "folder", source, own_name, note, tuple(files), left_out, place)


def read_folder_files(
    source: str, choice: FolderChoice, limits: InputLimits, *, bytes_max: int, files_max: int
) -> tuple[str, dict[str, bytes], Mapping[str, LeftOutFiles]]:
    """Return what a folder is called, its files' bytes by their paths, and what was left out.

    Raises InputTooLarge, InputError as above. `files_max`: files and folders that a guest may have.
    """
    folder = Folder(source, choice, limits)
    found: dict[str, bytes] = {}
    folders: set[str] = set()
    left_bytes = bytes_max
    for path, opened in folder.files():
        try:
            data = b"".join(opened.pieces(left_bytes, FILES_KEY))
        except InputTooLarge as error:
            raise _has_more(source, path, bytes_max, FILES_KEY) from error
        except InputError:
            folder.leave_out(path, LeftOut.UNREADABLE)
            continue
        folders.update(_above(path))
        _check_count(source, len(found) + 1, len(folders), limits, files_max)
        left_bytes -= len(data)
        found[path] = data
    return _called(source), found, _by_words(folder)


def told_of_left_out(source: str, files: int, left_out: Mapping[str, LeftOutFiles]) -> str:
    """Return the line that tells a person what of a folder was left out; an empty text: nothing."""
    if not left_out:
        return ""
    return f"{shown(source)}: {files} {'file' if files == 1 else 'files'} taken; left out: {_told(left_out)}"


def _names(files: Sequence[FileRead]) -> list[str]:
    """Return what each file is called in the guest: as here, a document's text by a name of its own."""
    taken = {file.path for file in files if file.document is None}
    names = []
    for file in files:
        name = called(file.path, file)
        if file.document is not None:
            # As `apart` does it: of two report.pdf.txt the second is report-2.pdf.txt.
            folder, slash, own = name.rpartition("/")
            stem, dot, ending = own.partition(".")
            numbered = (f"{folder}{slash}{stem}-{i}{dot}{ending}" for i in itertools.count(2))
            name = next(each for each in itertools.chain((name,), numbered) if each not in taken)
            taken.add(name)
        names.append(name)
    return names


def _called(place: str) -> str:
    return os.path.basename(os.path.realpath(place)) or _NO_NAME


def _by_words(folder: Folder) -> dict[str, LeftOutFiles]:
    return {reason.value: found for reason, found in folder.left_out.items()}


def _has_more(source: str, path: str, bytes_max: int, key: str) -> InputTooLarge:
    return too_large(
        source, bytes_max, key, what=f"has more in its files, up to {shown(path)[:_SHOWN_CHARS_MAX]},"
    )


def _is_no_text(path: str, opened: OpenFile, reading: Reading) -> bool:
    head = opened.head(LOOKED_AT_BYTES)
    if reading.encodings or packing_of(path, head[:HEAD_BYTES]) is not None or not is_binary(head):
        return False
    return reading.document(path, head[:MARK_WITHIN_BYTES]) is None


def _reason(error: InputError) -> LeftOut:
    match error:
        case InputNotText():
            return LeftOut.BINARY
        case InputDamaged():
            return LeftOut.DAMAGED
        case InputNotConverted():
            return LeftOut.NO_IMAGE if error.no_image else LeftOut.NO_TEXT
    return LeftOut.UNREADABLE


def _way_out(error: InputTooLarge) -> InputTooLarge:
    """Return the same refusal of a file with what can be done about it where it is one of many."""
    message = f"{error.message}; of a folder it can be left out with --exclude"
    return InputTooLarge(error.file, message, key=error.key, limit=error.limit)


def _told(left_out: Mapping[str, LeftOutFiles]) -> str:
    told = []
    for reason, found in left_out.items():
        more = f" and {found.count - 1} more" if found.count > 1 else ""
        told.append(f"{shown(found.first)[:_SHOWN_CHARS_MAX]}{more}: {reason}")
    return "; ".join(told)


def _above(path: str) -> list[str]:
    return [path[:at] for at, char in enumerate(path) if char == "/"]


def _check_count(source: str, files: int, folders: int, limits: InputLimits, guest_files_max: int) -> None:
    """Raise InputTooLarge if these are more files, or with their folders more, than the policy allows."""
    for count, key, limit in (
        (files, "inputs.files_max", limits.files_max),
        # With the folder itself.
        (files + folders + 1, "sandbox.files_max", guest_files_max),
    ):
        if count > limit:
            raise InputTooLarge(
                source,
                f"{shown(source)} has more files than the {limit} that {key} allows; raise that key in the "
                "policy, or take fewer with --include or --exclude",
                key=key,
                limit=limit,
            )
