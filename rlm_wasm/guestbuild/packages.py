"""The stages of a variant's packages: the C++ library, and each package, built by the meson that it brings.

Nothing of them is a stage of the guest that is built by default. What comes out of a package is one archive
of its objects and its modules in Python; the guest is linked with the one and has the other frozen.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.archive import below, unpack_deb, unpack_tar
from rlm_wasm.guestbuild.build_context import BuildContext, Needs, prefix_maps, wasm_env, write_files
from rlm_wasm.guestbuild.build_host import write_script
from rlm_wasm.guestbuild.manifest import PackagePin
from rlm_wasm.guestbuild.progress import Steps
from rlm_wasm.guestbuild.recipe import Recipe

# What the shim is linked with: the extension modules' names, and the packages' first imports.
EXTENSIONS_FILE: Final = "packages.h"
FIRST_MODULE: Final = "rlm_variant.py"
# For the progress bar only.
_COMPILE: Final = Steps(b"Compiling C", 180)
# Where meson puts the objects of an extension module.
_EXTENSION: Final = re.compile(r"(.+)\.so\.p/.*")
_TESTS: Final = {"tests", "test"}


def make_cxx(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    """include/, lib/, and `c++`: the toolchain's clang with this library."""
    assert recipe.cxx is not None
    llvm, target = recipe.toolchain.llvm, recipe.manifest.compile.target
    library, headers = f"{llvm}/lib/wasm32-wasi", f"{llvm}/include/wasm32-wasi/c++/v1"
    for file in recipe.cxx.files:
        unpack_deb(context.store.fetch(file), out, below(library, headers))
    toolchain = f"$here/../{needs['toolchain'].name}"
    write_script(
        out / "c++",
        f'LD_LIBRARY_PATH="{toolchain}/usr/lib/{recipe.toolchain.machine}-linux-gnu" '
        f'exec "{toolchain}/{llvm}/bin/clang" --driver-mode=g++ --target={target} '
        f'--sysroot="{toolchain}/sysroot" -nostdinc++ -isystem "$here/{headers}" -L"$here/{library}" "$@"',
    )
    (out / "lib").symlink_to(library)


def make_package(pin: PackagePin, recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    """lib/ with one archive, and python/ with what is to be frozen."""
    # CPython's headers, under the name by which what it builds speaks of them.
    needs = {"instrumented" if name == "libpython" else name: path for name, path in needs.items()}
    work, log = out / "work", context.open_log(pin.name)
    source, build, tools = work / "source", work / "build", work / "tools"
    unpack_tar(context.store.fetch_any(pin.files), source, lambda name: name.partition("/")[2] or None)
    for patch in recipe.package_patches[pin.name]:
        patch.apply(source)
    ours = {name: text for name, text in recipe.package_files.items() if name.startswith(f"{pin.name}/")}
    write_files(work / "ours", {name.partition("/")[2]: text for name, text in ours.items()})
    _unzip(context.store.fetch(pin.cython), tools / "site")
    _write_tools(recipe, context, pin, work, needs)
    path = os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)])
    env = wasm_env(recipe, {"PATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"})
    context.run(
        [sys.executable, "-B", str(source / pin.meson), "setup", str(build), str(source),
         "--cross-file", str(tools / "cross.ini"), "--native-file", str(tools / "native.ini"), *pin.options],
        what=f"configuring {pin.name}", cwd=source, env=env, log=log, part=(0.0, 0.15),
    )  # fmt: skip
    ninja = str(tools / "ninja")
    context.run(
        [ninja, "-j", str(context.jobs), *wanted_targets(pin, (build / "build.ninja").read_text("utf-8"))],
        what=f"compiling {pin.name}", cwd=build, env=env, log=log, part=(0.15, 0.98), steps=_COMPILE,
    )  # fmt: skip
    (out / "lib").mkdir()
    objects = sorted(str(path.relative_to(build)) for path in build.rglob("*.o"))
    context.run(
        [str(needs["toolchain"] / "ar"), "qcsD", str(out / "lib" / f"lib{pin.name}.a"), *objects],
        what=f"collecting {pin.name}", cwd=build, env=env, log=log, part=(0.98, 1.0),
    )  # fmt: skip
    _copy_python(pin, source, build, out / "python", {"work": work, **needs})
    shutil.rmtree(work)


def extension_table(packages: Sequence[PackagePin]) -> bytes:
    """The C that tells CPython of the packages' modules in C."""
    names = [name for pin in packages for name in pin.extensions]
    starts = [f"PyInit_{name.rpartition('.')[2]}" for name in names]
    lines = [f"PyObject *{start}(void);\n" for start in starts]
    lines.append("static const struct _inittab extensions[] = {\n")
    lines += [f'    {{"{name}", {start}}},\n' for name, start in zip(names, starts, strict=True)]
    return "".join([*lines, "    {0, 0}};\n"]).encode("ascii")


def package_modules(recipe: Recipe, needs: Needs) -> dict[str, bytes]:
    """What is frozen of the packages, and the module that imports them before the image is taken.

    Raises:
        GuestBuildError: one of them would take the place of a module that every guest has.
    """
    modules: dict[str, bytes] = {}
    for pin in recipe.packages:
        folder = needs[pin.name] / "python"
        modules |= {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))
        }
        modules |= {
            name.partition("/")[2]: text
            for name, text in recipe.package_files.items()
            if name.startswith(f"{pin.name}/") and name.endswith(".py")
        }
    imports = [f"import {name}\n" for pin in recipe.packages for name in pin.imports]
    modules[FIRST_MODULE] = recipe.package_files[FIRST_MODULE] + "".join(imports).encode("ascii")
    if both := sorted(modules.keys() & recipe.modules.keys()):
        raise GuestBuildError(f"modules of every guest are in the packages too: {', '.join(both)}")
    return modules


def linked_files(recipe: Recipe) -> dict[str, bytes]:
    """The C of ours that goes beside the shim, for the packages that the recipe has."""
    names = {pin.name for pin in recipe.packages}
    return {
        name: text
        for name, text in recipe.package_files.items()
        if name.endswith((".c", ".h")) and name.partition("/")[0] in names
    }


def package_archives(recipe: Recipe, needs: Needs) -> list[str]:
    """The linker's arguments for the packages and the C++ library."""
    archives = [str(needs[pin.name] / "lib" / f"lib{pin.name}.a") for pin in recipe.packages]
    more = [flag for pin in recipe.packages for flag in pin.archives]
    return [*archives, *more, f"-L{needs['cxx'] / 'lib'}", "-lc++", "-lc++abi"]


def wanted_targets(pin: PackagePin, rules: str) -> list[str]:
    """Of a build.ninja the static archives and the objects of the wanted modules; nothing is linked.

    Raises:
        GuestBuildError: it makes none of these.
    """
    found = []
    for line in rules.splitlines():
        if line.startswith("build "):
            outputs = line.removeprefix("build ").partition(": ")[0].split()
            found += [name for name in outputs if name.endswith((".o", ".a")) and _is_wanted(pin, name)]
    if not found:
        raise GuestBuildError(f"the build of {pin.name} has nothing to compile")
    return found


def _is_wanted(pin: PackagePin, name: str) -> bool:
    extension = _EXTENSION.fullmatch(name)
    return extension is None or extension[1].replace("/", ".") in pin.extensions


def _write_tools(recipe: Recipe, context: BuildContext, pin: PackagePin, work: Path, needs: Needs) -> None:
    """What meson and ninja call: compilers, Cython, and a Python that describes the guest's."""
    tools, include = work / "tools", str(needs["instrumented"] / "include")
    write_files(tools, {"describe.py": recipe.package_files["describe.py"]})
    host = f'exec "{sys.executable}" -B'
    write_script(tools / "cython", f'PYTHONPATH="$here/site" {host} -m cython "$@"')
    write_script(tools / "python", f'{host} "$here/describe.py" {recipe.cpython.series} "{include}" "$@"')
    (tools / "ninja").symlink_to(context.pinned_tool(recipe, "ninja", work))
    flags = [*recipe.toolchain.cflags, *recipe.manifest.compile.opt, f"-I{work / 'ours'}", f"-I{include}",
             *pin.flags, *prefix_maps(work, needs)]  # fmt: skip
    # meson compiles objects for a shared library, which none of these becomes: the last word is ours.
    for name, compiler in (("cc", needs["toolchain"] / "cc"), ("c++", needs["cxx"] / "c++")):
        write_script(tools / name, f'exec "{compiler}" "$@" -fno-pic')
    binaries = {"c": tools / "cc", "cpp": tools / "c++", "ar": needs["toolchain"] / "ar",
                "ranlib": needs["toolchain"] / "ranlib", "python": tools / "python"}  # fmt: skip
    cross: dict[str, dict[str, object]] = {
        "binaries": {name: str(path) for name, path in binaries.items()},
        "built-in options": {"c_args": flags, "cpp_args": [*flags, *pin.cxx_flags]},
        "properties": {
            "longdouble_format": "IEEE_QUAD_LE", "needs_exe_wrapper": True, "skip_sanity_check": True,
        },
        "host_machine": {"system": "wasi", "cpu_family": "wasm32", "cpu": "wasm32", "endian": "little"},
    }  # fmt: skip
    native: dict[str, dict[str, object]] = {
        "binaries": {"cython": str(tools / "cython"), "python": str(tools / "python")}
    }
    for name, sections in (("cross.ini", cross), ("native.ini", native)):
        (tools / name).write_text(_ini(sections), encoding="utf-8")


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    """meson's files for machines: the values are texts, lists of texts and booleans in its own syntax."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]\n")
        lines += [
            f"{key} = {str(value).lower() if value is True else repr(value)}\n"
            for key, value in values.items()
        ]
    return "".join(lines)


def _copy_python(pin: PackagePin, source: Path, build: Path, into: Path, paths: Mapping[str, Path]) -> None:
    """The package's modules, those that the build generated among them, with no path of this machine."""
    for base in (source, build):
        for path in sorted((base / pin.name).rglob("*.py")):
            name = path.relative_to(base)
            if any(part in _TESTS for part in name.parts) or any(
                fnmatch(str(name), each) for each in pin.leave
            ):
                continue
            text = path.read_bytes()
            if base == build:
                for label, place in paths.items():
                    text = text.replace(str(place).encode(), label.encode())
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # One that meson made empty stands for a folder of its own only.
            if text or not target.exists():
                target.write_bytes(text)


def _unzip(wheel: Path, into: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    except (OSError, zipfile.BadZipFile) as error:
        raise GuestBuildError(f"{wheel.name} is damaged: {error}") from error
