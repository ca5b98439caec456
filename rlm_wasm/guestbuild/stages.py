"""The graph of stages from pinned files to `raw.wasm`, each keyed by everything that decides its output.

    toolchain    python-src
      |    \\      /   |   \\
  libraries \\    /  native  |    + guest/libraries
       \\     |  /   /  |    |
     instrumented  /  stdlib
             |    /  /   |
             profile     |     + guest/training
             |           |
        libpython        |
             |           |
             |       frozen    + guest/python, time zones
             |       /
             link              + guest/shim

Where what the training left is kept as text (`trained.py`), nothing is counted again: `profile` needs the
toolchain alone, and `instrumented` is not made. Keys do not change by that: they say what a training would be
made of.

A variant has a stage more for each of its packages, from `toolchain`, `libpython` (for CPython's headers)
and `cxx`, the C++ library; its `frozen` and `link` take them in, and all other stages are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from rlm_wasm.guestbuild import assembly, compilation, libraries, packages
from rlm_wasm.guestbuild import training_stage as training
from rlm_wasm.guestbuild.build_context import BuildContext, Needs
from rlm_wasm.guestbuild.build_host import find_compiler
from rlm_wasm.guestbuild.manifest import PackagePin, PinnedFile
from rlm_wasm.guestbuild.patches import Patch
from rlm_wasm.guestbuild.recipe import Recipe, hashes
from rlm_wasm.guestbuild.stage_cache import Stage, stage_key
from rlm_wasm.guestbuild.trained import Trained, load_trained

# Raised when the code of a stage changes what it makes, so that old results are not taken for new.
_REVISION: Final = {
    "toolchain": 2, "python-src": 1, "native": 1, "libraries": 1, "instrumented": 1,
    "profile": 1, "libpython": 2, "stdlib": 1, "frozen": 2, "link": 1, "cxx": 1, "package": 1,
}  # fmt: skip

# What is made in a second thread, as one chain: for most of its time it keeps one processor busy, or none.
_BESIDE: Final = ("python-src", "native", "stdlib")
# The stage that only a training needs.
TRAINING: Final = "instrumented"

_Make = Callable[[Recipe, BuildContext, Path, Needs], None]


def plan_stages(recipe: Recipe, context: BuildContext) -> Stage:
    """Return the last stage of `recipe`, whose folder holds `raw.wasm`; the others hang below it.

    Raises:
        ArtifactError: what a training left is kept in no form that is known.
    """
    return _plan(recipe, context, load_trained(recipe.manifest.folder))[1]


def plan_training(recipe: Recipe, context: BuildContext) -> Stage:
    """Return the stage `profile` of `recipe`, made by training, whatever is kept of one."""
    return _plan(recipe, context, None)[0]


def _plan(recipe: Recipe, context: BuildContext, trained: Trained | None) -> tuple[Stage, Stage]:
    """Return the stage `profile` and the last one."""
    manifest, toolchain_pin, cpython = recipe.manifest, recipe.toolchain, recipe.cpython
    flags, link_flags, boundary = manifest.compile, manifest.link, manifest.boundary

    def stage(
        name: str, text: str, seconds: int, needs: Sequence[Stage], make: _Make, inputs: Any,
        files: Sequence[tuple[PinnedFile, ...]] = (), check: Callable[[], object] | None = None,
        kind: str | None = None, keyed: Sequence[Stage] | None = None,
    ) -> Stage:  # fmt: skip
        """One stage. `seconds` are its share of a build on two processors that do nothing else, for the bar.

        `keyed` are the stages that its key is made of, where it reads others.
        """
        pins = [sorted(file.sha256 for file in group) for group in files]
        below = [need.key for need in (needs if keyed is None else keyed)]
        key = stage_key(name, [_REVISION[kind or name], below, pins, inputs])
        maker = partial(make, recipe, replace(context, stage=name))
        return Stage(name, text, key, seconds, tuple(needs), tuple(files), maker, check, name in _BESIDE)

    toolchain = stage(
        "toolchain", f"unpacking {toolchain_pin.name}", 5, [], compilation.make_toolchain,
        [toolchain_pin.name, toolchain_pin.llvm, flags.target],
        [(file,) for file in (*toolchain_pin.packages, toolchain_pin.wasi_libc)], check=find_compiler,
    )  # fmt: skip
    python_src = stage(
        "python-src", f"unpacking CPython {cpython.version}", 3, [], compilation.make_python_src,
        [cpython.version, [[patch.file, patch.search, patch.replace] for patch in recipe.patches]],
        [cpython.files],
    )  # fmt: skip
    native = stage(
        "native", "building CPython for this machine (it freezes the modules)", 65, [python_src],
        compilation.make_native, [compilation.NATIVE_OPT], check=find_compiler,
    )  # fmt: skip
    compiled = stage(
        "libraries", "compiling the C libraries", 35, [toolchain], libraries.make_libraries,
        [[asdict(pin) | {"releases": release.version} for pin, release in recipe.libraries], flags.opt,
         flags.source_date_epoch, hashes(recipe.additions)],
        [release.files for _, release in recipe.libraries],
    )  # fmt: skip
    compiling = [cpython.config_site, toolchain_pin.cflags, flags.configure, flags.opt, flags.small,
                 flags.source_date_epoch]  # fmt: skip
    linking = [toolchain_pin.cflags, link_flags.shim, link_flags.flags, link_flags.libraries,
               flags.source_date_epoch]  # fmt: skip
    instrumented = stage(
        TRAINING, f"compiling CPython {cpython.version} to wasm, to count what it does", 170,
        [toolchain, python_src, native, compiled], compilation.make_instrumented,
        [*compiling, manifest.training.instrument],
    )  # fmt: skip
    stdlib = stage(
        "stdlib", "freezing the standard library", 5, [python_src, native], assembly.make_stdlib,
        [manifest.stdlib_exclude, hashes(recipe.tools)],
    )  # fmt: skip
    profile = stage(
        "profile", "training CPython", 20, [toolchain, python_src, native, compiled, instrumented, stdlib],
        training.make_profile,
        [*linking, hashes(recipe.training), hashes(recipe.training_shim), hashes(recipe.tools)],
    )  # fmt: skip
    taken = trained if trained is not None and trained.key == profile.key else None
    if taken is not None:
        take = partial(training.take_profile, taken, replace(context, stage=profile.name))
        text = "taking what an earlier training left"
        profile = replace(profile, text=text, seconds=1, needs=(toolchain,), make=take)
    libpython = stage(
        "libpython", f"compiling CPython {cpython.version} to wasm, as it was trained", 215,
        [toolchain, python_src, native, compiled, *([] if taken else [instrumented]), profile],
        partial(compilation.make_libpython, taken),
        [*compiling, manifest.training.use, manifest.training.merge, manifest.training.alone],
        keyed=[toolchain, python_src, native, compiled, instrumented, profile],
    )  # fmt: skip
    built: list[Stage] = []
    variant: list[Any] = []
    if recipe.packages:
        assert recipe.cxx is not None
        cxx = stage(
            "cxx", "unpacking the C++ library", 2, [toolchain], packages.make_cxx,
            [flags.target, toolchain_pin.llvm], [(file,) for file in recipe.cxx.files],
        )  # fmt: skip
        built = [
            stage(
                pin.name, f"compiling {pin.name} {pin.version}", pin.seconds, [toolchain, cxx, libpython],
                partial(packages.make_package, pin),
                [_choices(pin), flags.opt, toolchain_pin.cflags, flags.source_date_epoch,
                 _changes(recipe.package_patches[pin.name]),
                 hashes(_compiled_with(recipe, pin))],
                [pin.files, (pin.cython,)], check=find_compiler, kind="package",
                # Of libpython it reads CPython's headers alone, which another training leaves as they are.
                keyed=[toolchain, cxx, instrumented],
            )
            for pin in recipe.packages
        ]  # fmt: skip
        variant = [hashes(recipe.package_files), [[pin.name, pin.imports] for pin in recipe.packages]]
    frozen = stage(
        "frozen", "freezing the guest's modules", 1, [python_src, native, stdlib, *built],
        assembly.make_frozen,
        [hashes(recipe.modules), hashes(recipe.tools), recipe.zones.version, _changes(recipe.library_patches),
         *variant],
        [recipe.zones.files],
    )  # fmt: skip
    more = [cxx, *built] if recipe.packages else []
    link = stage(
        "link", "linking", 3, [toolchain, compiled, libpython, frozen, *more], assembly.make_link,
        [*linking, link_flags.wrap, hashes(recipe.shim), boundary.module, boundary.imports, boundary.exports,
         *variant],
    )  # fmt: skip
    return profile, link


def _choices(pin: PackagePin) -> dict[str, Any]:
    """What of a package's pin decides what its own stage makes."""
    choices = {name: value for name, value in asdict(pin).items() if name != "test_wheels"}
    return choices | dict.fromkeys(("files", "cython", "seconds", "imports"))


def _changes(patches: Sequence[Patch]) -> list[list[str]]:
    return [[patch.file, patch.search, patch.replace] for patch in patches]


def _compiled_with(recipe: Recipe, pin: PackagePin) -> dict[str, bytes]:
    """The files of ours that a package is compiled with: the others are only frozen or linked."""
    return {
        name: text
        for name, text in recipe.package_files.items()
        if name == "describe.py" or (name.startswith(f"{pin.name}/") and name.endswith(".h"))
    }
