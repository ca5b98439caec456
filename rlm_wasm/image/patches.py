"""Small changes to upstream's sources: an exact text, found exactly once, is replaced by another.

A patch whose anchor has moved fails loudly: it never half-applies and never guesses.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from rlm_wasm.errors import GuestBuildError


@dataclass(frozen=True, slots=True)
class Patch:
    """Replace `search` by `replace` in `file` (a path below the source tree)."""

    name: str
    file: str
    search: str
    replace: str

    def apply(self, tree: Path) -> None:
        """Change the file in `tree`, keeping its times.

        Raises:
            GuestBuildError: the anchor is not there exactly once.
        """
        path = tree / self.file
        if not path.is_file():
            raise GuestBuildError(f"patch {self.name}: {self.file} does not exist in the sources")
        text = path.read_text(encoding="utf-8")
        count = text.count(self.search)
        if count != 1:
            raise GuestBuildError(
                f"patch {self.name}: its anchor occurs {count} times in {self.file}, not once",
                hint="the sources have changed: adapt guest/patches to this version",
            )
        before = path.stat()
        path.write_text(text.replace(self.search, self.replace), encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def load_patch(folder: Path, name: str) -> Patch:
    """Read `name`.toml in `folder`; GuestBuildError if it is not a patch."""
    path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GuestBuildError(f"{path}: {error}") from error
    if set(values) != {"file", "search", "replace"} or not all(isinstance(v, str) for v in values.values()):
        raise GuestBuildError(f"{path}: needs the texts file, search and replace, and nothing else")
    if not values["search"] or values["search"] == values["replace"]:
        raise GuestBuildError(f"{path}: search must not be empty or equal to replace")
    return Patch(name, values["file"], values["search"], values["replace"])
