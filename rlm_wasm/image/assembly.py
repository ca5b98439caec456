"""The stages after compiling: the frozen standard library, the guest's own modules, the linked module.

A change of the shim or of the guest's Python runs only these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.image.boundary import check_boundary
from rlm_wasm.image.host import clean_env
from rlm_wasm.image.recipe import Recipe
from rlm_wasm.image.workshop import Needs, Workshop, prefix_maps, wasm_env, write_files

RAW_FILE: Final = "raw.wasm"
# What the shim embeds: one blob of marshalled code, and the rows of a `struct _frozen` table over it.
BLOB_FILE, TABLE_FILE = "frozen.bin", "frozen_table.h"


def make_stdlib(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    folder = needs["python-src"] / "Lib"
    _freeze(recipe, shop, out, needs, folder, "stdlib", recipe.manifest.stdlib_exclude)


def make_frozen(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    work = out / "work"
    write_files(work / "modules", recipe.modules)
    _freeze(recipe, shop, work, needs, work / "modules", "guest", ())
    rows: dict[str, str] = {}
    with (out / BLOB_FILE).open("wb") as blob:
        for part in (needs["stdlib"] / "stdlib", work / "guest"):
            start = blob.tell()
            with part.with_suffix(".bin").open("rb") as stream:
                shutil.copyfileobj(stream, blob)
            for name, offset, size, package in json.loads(part.with_suffix(".json").read_bytes()):
                if name in rows:
                    raise GuestBuildError(f"two frozen modules are called {name}")
                rows[name] = f'{{"{name}", blob+{start + offset}, {size}, {package}}},\n'
    (out / TABLE_FILE).write_text("".join(rows.values()), encoding="ascii")
    shutil.rmtree(work)


def make_link(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    work, link, log = out / "work", recipe.manifest.link, shop.open_log("link")
    write_files(work, recipe.shim)
    for name in (BLOB_FILE, TABLE_FILE):
        shutil.copyfile(needs["frozen"] / name, work / name)
    cc, library, env = str(needs["toolchain"] / "cc"), needs["libpython"], wasm_env(recipe)
    sources = sorted(name for name in recipe.shim if name.endswith(".c"))
    shop.run(
        [cc, *link.shim, *recipe.toolchain.cflags, *prefix_maps(work, needs),
         f"-I{library / 'include'}", "-c", *sources],
        what="compiling the shim", cwd=work, env=env, log=log, part=(0.0, 0.7),
    )  # fmt: skip
    objects = [Path(source).with_suffix(".o").name for source in sources]
    archives = [*sorted((library / "lib").iterdir()), needs["zlib"] / "lib" / "libz.a"]
    shop.run(
        [cc, *link.flags, "-o", str(out / RAW_FILE), *objects, *map(str, archives), *link.libraries],
        what="linking the guest", cwd=work, env=env, log=log, part=(0.7, 1.0),
    )  # fmt: skip
    shutil.rmtree(work)
    (out / RAW_FILE).chmod(0o644)
    check_boundary((out / RAW_FILE).read_bytes(), recipe.manifest.boundary)


def _freeze(
    recipe: Recipe, shop: Workshop, out: Path, needs: Needs, folder: Path, name: str, exclude: Sequence[str]
) -> None:
    """Write `name`.bin and `name`.json into `out`, made from the modules in `folder`."""
    tools = out / "tools"
    write_files(tools, recipe.tools)
    shop.run(
        [str(needs["native"] / "python"), "-s", "-S", "-B", str(tools / "freeze.py"), str(folder),
         str(out / name), *exclude],
        what=f"freezing {name}", cwd=out, env=clean_env(), log=shop.open_log(name),
    )  # fmt: skip
    shutil.rmtree(tools)
