"""The licences of everything that a guest is made of, taken from the files that it was made from."""

from __future__ import annotations

import re
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.archive import Keep, unpack_deb, unpack_tar
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.toml_table import Table

LICENCES_FILE: Final = "licences.toml"
_FORMAT: Final = 1
_FIRST_COMMENT: Final = re.compile(rb"\A\s*/\*.*?\*/", re.DOTALL)
_COMPILER_RT: Final = re.compile(r"libclang-rt-\d+-dev-wasm32_.*")


@dataclass(frozen=True, slots=True)
class IngredientLicence:
    """What one ingredient is called and licensed under. `texts` are patterns of files in its own archive."""

    of: str
    name: str
    spdx: str
    texts: tuple[str, ...]


def licence_entries(guest_sources: Path) -> dict[str, IngredientLicence]:
    """Return the entries of `licences.toml`. Raises ArtifactError: there is a mistake in it."""
    path = guest_sources / LICENCES_FILE
    table = Table(path, "", tomllib.loads(path.read_text(encoding="utf-8"))).only("format", "ingredient")
    if table.integer("format") != _FORMAT:
        raise table.fail("format", f"must be {_FORMAT}")
    entries = table.each("ingredient", lambda entry: entry.record(IngredientLicence))
    return {entry.of: entry for entry in entries}


def ingredients(recipe: Recipe) -> dict[str, tuple[str, Sequence[PinnedFile]]]:
    """Return what a recipe's guest is made of: each with its version and the files any of which it is in."""
    found: dict[str, tuple[str, Sequence[PinnedFile]]] = {
        "cpython": (recipe.cpython.version, recipe.cpython.files),
        "zones": (recipe.zones.version, recipe.zones.files),
    }
    for pin, release in recipe.libraries:
        found[pin.name] = (release.version, release.files)
    toolchain = recipe.toolchain
    builtins = [file for file in toolchain.packages if _COMPILER_RT.fullmatch(file.name)]
    for name, files in (("wasi-libc", [toolchain.wasi_libc]), ("compiler-rt", builtins)):
        found[name] = (files[0].name.split("_")[1] if files else "?", files)
    return found


def licence_texts(recipe: Recipe, store: SourceStore) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file to ship: one for each text, and `NOTICE.md`, which lists all.

    Raises:
        GuestBuildError: an ingredient has no entry, or its archive lacks a text.
    """
    entries, made_of = licence_entries(recipe.manifest.folder), ingredients(recipe)
    if missing := sorted(made_of.keys() - entries.keys()):
        raise GuestBuildError(f"guest/{LICENCES_FILE} says nothing of: {', '.join(missing)}")
    rows = []
    for of, (version, files) in made_of.items():
        entry = entries[of]
        texts = _texts(store.fetch_any(files), entry)
        for name, text in texts.items():
            yield f"{of}/{name}", text
        named = ", ".join(f"`{of}/{name}`" for name in texts)
        rows.append(f"| {entry.name} | {version} | {entry.spdx} | {named} |\n")
    yield "NOTICE.md", "".join([_NOTICE, *rows]).encode()


_NOTICE: Final = """\
# What the guest is made of

The guest that this package carries is made from these, by the recipe in `rlm_wasm/_guest`, with rlm-wasm's
own patches and C (Apache-2.0, as the package). Each text is from the very release. Where one speaks of
`/usr/share/common-licenses/Apache-2.0`, that text is the package's own LICENSE.

| what | version | licence (SPDX) | texts |
|---|---|---|---|
"""


def _texts(archive: Path, entry: IngredientLicence) -> dict[str, bytes]:
    """Return the texts of an ingredient, by their names in its archive."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder)
        if archive.suffix == ".whl":
            _unpack_wheel(archive, into, entry)
        elif archive.suffix == ".deb":
            unpack_deb(archive, into, _keep(entry, top=False))
        else:
            unpack_tar(archive, into, _keep(entry, top=True))
        found = {path.relative_to(into).as_posix(): path.read_bytes() for path in _files(into)}
    for pattern in entry.texts:
        if not any(PurePosixPath(name).match(pattern) for name in found):
            raise GuestBuildError(f"{archive.name} has no {pattern}, which guest/{LICENCES_FILE} names")
    return {_shown(name): _only_notice(name, text) for name, text in sorted(found.items())}


def _keep(entry: IngredientLicence, *, top: bool) -> Keep:
    """Keep the texts of an entry; `top`: all members lie in one folder, whose name is no part of theirs."""

    def keep(name: str) -> str | None:
        inner = name.partition("/")[2] if top else name
        return inner if any(_is(inner, pattern) for pattern in entry.texts) else None

    return keep


def _is(name: str, pattern: str) -> bool:
    # Of the same depth: PurePath.match alone looks at the end.
    return name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern)


def _unpack_wheel(archive: Path, into: Path, entry: IngredientLicence) -> None:
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if any(_is(name, pattern) for pattern in entry.texts):
                target = into / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(name))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _shown(name: str) -> str:
    """Return a file's name to ship under: no folder that says nothing, no header that could be compiled."""
    suffix = "" if name.endswith((".txt", ".rst")) else ".txt"
    return name.replace("/", "-").removeprefix("usr-share-doc-") + suffix


def _only_notice(name: str, text: bytes) -> bytes:
    """Return a text; of a C header, the notice at its head alone."""
    comment = _FIRST_COMMENT.match(text) if name.endswith(".h") else None
    return text if comment is None else comment.group() + b"\n"
