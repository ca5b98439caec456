"""The place that a user named an input by: a file, a folder, or a path with wildcards."""

from __future__ import annotations

import os
import stat

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.file_input import Reading, read_file_input
from rlm_wasm.inputs.folder_input import read_folder_input
from rlm_wasm.inputs.given import InputRead
from rlm_wasm.inputs.open_file import STDIN, Opener
from rlm_wasm.inputs.wildcards import wild_path


def read_input_at(name: str, place: str, reading: Reading) -> InputRead:
    """Read what is at a place as the input `name`. A file that is called like a pattern is that file.

    Raises InputError as what reads a file and a folder does, and UsageError for an empty name.
    """
    if not place:
        raise UsageError("the name of a file is empty")
    is_folder, exists = _look(place, reading.opener)
    if place != STDIN and is_folder:
        return read_folder_input(name, place, reading)
    if place != STDIN and not exists and (wild := wild_path(place)) is not None:
        return read_folder_input(name, place, reading, wild)
    return read_file_input(name, place, reading)


def _look(place: str, opener: Opener) -> tuple[bool, bool]:
    """Return whether a place is a folder, and whether it is there."""
    try:
        if opener is os.open:
            return os.path.isdir(place), os.path.lexists(place)
        descriptor = opener(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, False
    except (OSError, ValueError):  # a NUL, or a place that may not be looked at: opening it will tell of it
        return False, True
    try:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode), True
    finally:
        os.close(descriptor)
