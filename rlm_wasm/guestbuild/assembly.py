"""The stages after compiling: the frozen standard library, the guest's own modules, the linked module.

A change of the shim or of the guest's Python runs only these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.boundary_check import check_boundary
from rlm_wasm.guestbuild.build_context import BuildContext, Needs, prefix_maps, wasm_env, write_files
from rlm_wasm.guestbuild.build_host import clean_env
from rlm_wasm.guestbuild.packages import (
    EXTENSIONS_FILE,
    extension_table,
    linked_files,
    package_archives,
    package_modules,
)
from rlm_wasm.guestbuild.recipe import LIBRARY_FOLDER, Recipe
from rlm_wasm.guestbuild.zones import zone_modules

RAW_FILE: Final = "raw.wasm"
# What the shim embeds: one blob of marshalled code, and the rows of a `struct _frozen` table over it.
BLOB_FILE, TABLE_FILE = "frozen.bin", "frozen_table.h"


def make_stdlib(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    folder = needs["python-src"] / "Lib"
    _freeze(recipe, context, out, needs, folder, "stdlib", recipe.manifest.stdlib_exclude)


def make_frozen(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    ours = {**recipe.modules, **zone_modules(context.store.fetch_any(recipe.zones.files))}
    if recipe.packages:
        ours |= package_modules(recipe, needs)
    patched = _patched_library(recipe, out / "patched", needs["python-src"])
    freeze_with_stdlib(recipe, context, out, needs, "guest", ours, patched)


def make_link(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    files = dict(recipe.shim)
    for name in (BLOB_FILE, TABLE_FILE):
        files[name] = (needs["frozen"] / name).read_bytes()
    wrapped = [f"-Wl,--wrap={name}" for name in recipe.manifest.link.wrap]
    if recipe.packages:
        files[EXTENSIONS_FILE] = extension_table(recipe.packages)
        # Two functions of one name and different types would be one that traps.
        wrapped += ["-Wl,--fatal-warnings", *package_archives(recipe, needs)]
        files |= linked_files(recipe)
    link_module(recipe, context, out, needs, needs["libpython"], files, "link", wrapped)
    check_boundary((out / RAW_FILE).read_bytes(), recipe.manifest.boundary)


def freeze_with_stdlib(
    recipe: Recipe, context: BuildContext, out: Path, needs: Needs, name: str, modules: Mapping[str, bytes],
    instead: Mapping[str, bytes] | None = None,
) -> None:  # fmt: skip
    """Write into `out` what the shim embeds: the standard library and `modules`, frozen.

    `instead` are modules that take the place of the standard library's own.
    """
    work, instead = out / "work", instead or {}
    if both := sorted(modules.keys() & instead.keys()):
        raise GuestBuildError(f"modules of ours are patched: {', '.join(both)}")
    write_files(work / "modules", {**modules, **instead})
    _freeze(recipe, context, work, needs, work / "modules", name, ())
    replaced = {_module_name(path) for path in instead}
    rows: dict[str, str] = {}
    with (out / BLOB_FILE).open("wb") as blob:
        for part in (needs["stdlib"] / "stdlib", work / name):
            start = blob.tell()
            with part.with_suffix(".bin").open("rb") as stream:
                shutil.copyfileobj(stream, blob)
            for module, offset, size, package in json.loads(part.with_suffix(".json").read_bytes()):
                if module in replaced and module in rows:
                    del rows[module]
                if module in rows:
                    raise GuestBuildError(f"two frozen modules are called {module}")
                rows[module] = f'{{"{module}", blob+{start + offset}, {size}, {package}}},\n'
    (out / TABLE_FILE).write_text("".join(rows.values()), encoding="ascii")
    shutil.rmtree(work)


def _patched_library(recipe: Recipe, work: Path, source: Path) -> dict[str, bytes]:
    """The modules of the standard library that have patches, with them, by their path below Lib/."""
    files = sorted({patch.file for patch in recipe.library_patches})
    write_files(work, {file: (source / file).read_bytes() for file in files})
    for patch in recipe.library_patches:
        patch.apply(work)
    patched = {file.removeprefix(LIBRARY_FOLDER): (work / file).read_bytes() for file in files}
    shutil.rmtree(work)
    return patched


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def link_module(
    recipe: Recipe, context: BuildContext, out: Path, needs: Needs, library: Path, files: Mapping[str, bytes],
    name: str, flags: Sequence[str] = (),
) -> None:  # fmt: skip
    """Compile the C files of `files` and link them with the CPython of `library` to a module in `out`."""
    work, link, log = out / "work", recipe.manifest.link, context.open_log(name)
    write_files(work, files)
    cc, env = str(needs["toolchain"] / "cc"), wasm_env(recipe)
    sources = sorted(file for file in files if file.endswith(".c"))
    context.run(
        [cc, *link.shim, *recipe.toolchain.cflags, *prefix_maps(work, needs),
         f"-I{library / 'include'}", "-c", *sources],
        what="compiling the shim", cwd=work, env=env, log=log, part=(0.0, 0.7),
    )  # fmt: skip
    objects = [Path(source).with_suffix(".o").name for source in sources]
    archives = [*sorted((library / "lib").iterdir()), *sorted((needs["libraries"] / "lib").iterdir())]
    context.run(
        [cc, *link.flags, *flags, "-o", str(out / RAW_FILE), *objects, *map(str, archives), *link.libraries],
        what="linking the guest", cwd=work, env=env, log=log, part=(0.7, 1.0),
    )  # fmt: skip
    shutil.rmtree(work)
    (out / RAW_FILE).chmod(0o644)


def _freeze(
    recipe: Recipe,
    context: BuildContext,
    out: Path,
    needs: Needs,
    folder: Path,
    name: str,
    exclude: Sequence[str],
) -> None:
    """Write `name`.bin and `name`.json into `out`, made from the modules in `folder`."""
    tools = out / "tools"
    write_files(tools, recipe.tools)
    context.run(
        [str(needs["native"] / "python"), "-s", "-S", "-B", str(tools / "freeze.py"), str(folder),
         str(out / name), *exclude],
        what=f"freezing {name}", cwd=out, env=clean_env(), log=context.open_log(name),
    )  # fmt: skip
    shutil.rmtree(tools)
