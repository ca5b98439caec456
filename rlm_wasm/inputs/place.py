"""The place that a user named an input by: a file, a folder, or a path with wildcards."""

from __future__ import annotations

import os

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.file_input import Reading, read_file_input
from rlm_wasm.inputs.folder_input import read_folder_input
from rlm_wasm.inputs.given import InputRead
from rlm_wasm.inputs.open_file import STDIN
from rlm_wasm.inputs.wildcards import wild_path


def read_input_at(name: str, place: str, reading: Reading) -> InputRead:
    """Read what is at a place as the input `name`. A file that is called like a pattern is that file.

    Raises InputError as what reads a file and a folder does, and UsageError for an empty name.
    """
    if not place:
        raise UsageError("the name of a file is empty")
    try:
        is_folder, exists = os.path.isdir(place), os.path.lexists(place)
    except ValueError:  # a NUL, which opening it will tell of
        is_folder, exists = False, True
    if place != STDIN and is_folder:
        return read_folder_input(name, place, reading)
    if place != STDIN and not exists and (wild := wild_path(place)) is not None:
        return read_folder_input(name, place, reading, wild)
    return read_file_input(name, place, reading)
