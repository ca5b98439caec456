"""Small changes to upstream's sources: an exact text, found exactly once, is replaced by another.

A patch whose anchor has moved fails loudly: it never half-applies and never guesses. A patch file
holds `change` tables (file, search, replace), `guard` tables (a statement that goes in front of the
body of each C function named by its head), or one bare change.
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


def load_patches(folder: Path, name: str) -> tuple[Patch, ...]:
    """Read `name`.toml in `folder`; GuestBuildError if it is not a patch."""
    path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GuestBuildError(f"{path}: {error}") from error
    try:
        if set(values) <= {"change", "guard"}:
            changes = [_change(name, table) for table in _tables(values, "change")]
            guards = [patch for table in _tables(values, "guard") for patch in _guards(name, table)]
            patches = (*changes, *guards)
        else:
            patches = (_change(name, values),)
    except ValueError as error:
        raise GuestBuildError(f"{path}: {error}") from error
    if not patches:
        raise GuestBuildError(f"{path}: changes nothing")
    return patches


def _tables(values: dict[str, object], key: str) -> list[object]:
    tables = values.get(key, [])
    if not isinstance(tables, list):
        raise ValueError(f"{key} must be a list of tables")
    return tables


def _change(name: str, table: object) -> Patch:
    match table:
        case {"file": str(file), "search": str(search), "replace": str(replace), **rest} if not rest:
            if not search or search == replace:
                raise ValueError("search must not be empty or equal to replace")
            return Patch(name, file, search, replace)
    raise ValueError("a change needs the texts file, search and replace, and nothing else")


def _guards(name: str, table: object) -> list[Patch]:
    match table:
        case {"file": str(file), "statement": str(statement), "heads": list(heads), **rest} if not rest:
            if not statement or not all(isinstance(head, str) and head for head in heads):
                raise ValueError("a guard's statement and heads must not be empty")
            # With the line before it, a head cannot be found inside a longer name.
            bodies = [f"\n{head.strip()}\n{{\n" for head in heads]
            return [Patch(name, file, body, f"{body}    {statement}\n") for body in bodies]
    raise ValueError("a guard needs the texts file and statement and the list heads, and nothing else")
