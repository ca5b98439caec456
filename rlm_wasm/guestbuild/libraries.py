"""The stage that compiles the C libraries which modules of the standard library are made with."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.archive import unpack_tar
from rlm_wasm.guestbuild.build_context import BuildContext, Needs, prefix_maps, wasm_env, write_files
from rlm_wasm.guestbuild.manifest import LibraryPin
from rlm_wasm.guestbuild.progress import Steps
from rlm_wasm.guestbuild.recipe import Recipe

# For the progress bar only.
_COMPILE: Final = Steps(b" -c ", 170)


def make_libraries(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    """Fill `out` with lib/ and include/: all libraries at once, since one of them is a single long file."""
    work = out / "work"
    write_files(work, recipe.additions)
    (out / "include").mkdir()
    rules: list[str] = []
    archives: dict[str, int] = {}
    for pin, release in recipe.libraries:
        tree = work / pin.name
        unpack_tar(context.store.fetch_any(release.files), tree, _sources_only)
        _copy_headers(pin, tree / pin.folder, out / "include")
        archive, lines, longest = _rules(recipe, pin, work)
        archives[archive] = longest
        rules += lines
    # The longest file first: the others are compiled beside it.
    first = sorted(archives, key=lambda archive: -archives[archive])
    (work / "Makefile").write_text("".join([f"all: {' '.join(first)}\n", *rules]), encoding="ascii")
    tools = [f"{name}={needs['toolchain'] / program}" for name, program in (("CC", "cc"), ("AR", "ar"))]
    maps = f"MAPS={' '.join(prefix_maps(work, needs))}"
    context.run(
        [*context.make_command(recipe, work), *tools, maps],
        what="compiling the libraries", cwd=work, env=wasm_env(recipe), log=context.open_log("libraries"),
        steps=_COMPILE,
    )  # fmt: skip
    (out / "lib").mkdir()
    for archive in archives:
        (work / archive).rename(out / "lib" / archive)
    shutil.rmtree(work)


def _rules(recipe: Recipe, pin: LibraryPin, work: Path) -> tuple[str, list[str], int]:
    """The archive's name, the lines of a makefile that make it in `work`, and its longest source's size."""
    folder = work / pin.name / pin.folder
    sources = _find(folder, pin.sources, pin.name)
    sources = [name for name in sources if not any(PurePosixPath(name).match(each) for each in pin.leave)]
    ours = sorted(name for name in recipe.additions if name.startswith(f"{pin.name}/"))
    paths = [f"{pin.name}/{pin.folder}/{name}" if pin.folder else f"{pin.name}/{name}" for name in sources]
    paths += [name for name in ours if name.endswith(".c")]
    base = f"{pin.name}/{pin.folder}" if pin.folder else pin.name
    flags = " ".join(
        [*recipe.manifest.compile.opt, *pin.flags, *(f"-I{base}/{each}" for each in pin.include)]
    )
    archive = f"lib{pin.archive}.a"
    objects = [f"{pin.name}-{index}.o" for index in range(len(paths))]
    lines = [f"{archive}: {' '.join(objects)}\n\t$(AR) rcsD $@ $^\n"]
    for made, path in zip(objects, paths, strict=True):
        lines.append(f"{made}: {path}\n\t$(CC) {flags} $(MAPS) -c $< -o $@\n")
    return archive, lines, max((work / path).stat().st_size for path in paths)


def _copy_headers(pin: LibraryPin, folder: Path, into: Path) -> None:
    for name in _find(folder / pin.headers_in, pin.headers, pin.name):
        target = into / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / pin.headers_in / name, target)


def _find(folder: Path, patterns: Iterable[str], library: str) -> list[str]:
    """The files that `patterns` name below `folder`, sorted; a pattern that names none is a mistake."""
    found: set[str] = set()
    for pattern in patterns:
        names = {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}
        if not names:
            raise GuestBuildError(f"the sources of {library} have no {pattern}")
        found |= names
    return sorted(found)


def _sources_only(name: str) -> str | None:
    inner = name.partition("/")[2]
    return inner if inner.endswith((".c", ".h")) else None
