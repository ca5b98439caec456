"""The texts of a folder's files as one input: a dict of them by their paths, and a file in /inputs each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from rlm_wasm.errors import NoJsonForm
from rlm_wasm.values import JsonText

# As what logs have it: a dict that is a folder as well.
FOLDER_TYPE = "folder"


class FolderText(JsonText):
    """The JSON of a dict of texts by paths, which are in /inputs as well. `files` is that dict."""

    files: Mapping[str, str]

    @classmethod
    def of(cls, value: object, name: str = "value") -> Self:
        """Return the input for texts by their paths. Raises NoJsonForm for anything else."""
        if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
            raise NoJsonForm(f"{name} is no folder: a dict of texts by their paths")
        made = super().of(value, name)
        for path in value:
            if not _is_path(path):
                raise NoJsonForm(f"{name} is no folder: {path[:200]!a} is no path below one")
        made.files = dict(value)
        return made


def _is_path(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))
