"""The stages that compile: toolchain, sources; CPython for this machine, and for wasm twice.

Each function fills the folder `out` of its stage from the published folders in `needs`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.guestbuild.archive import unpack_tar
from rlm_wasm.guestbuild.build_context import BuildContext, Needs, prefix_maps, wasm_env
from rlm_wasm.guestbuild.build_host import clean_env, find_compiler, write_script
from rlm_wasm.guestbuild.progress import Steps
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.toolchain import lay_out
from rlm_wasm.guestbuild.trained import Trained

# It only freezes modules: compiling it quickly matters more than what it then takes.
NATIVE_OPT: Final = "-DNDEBUG -O0 -g0"
# What the training leaves, and what configure found out about the target.
PROFILE_FILE: Final = "guest.profdata"
CONFIG_CACHE: Final = "config.cache"
_CONFIG_OF_MACHINE: Final = re.compile(r"ac_cv_(env|path|prog|build|host)")
# Parts of CPython's tarball that no stage reads.
_UNUSED: Final = ("Doc/", "Lib/test/", "Lib/idlelib/", "Misc/NEWS.d/", "PCbuild/")
# Libraries of this machine must not be found.
_NO_PKG_CONFIG: Final = {"PKG_CONFIG_PATH": "", "PKG_CONFIG_LIBDIR": "/nonexistent"}
# For the progress bar only.
_CONFIGURE, _COMPILE = Steps(b"checking ", 780), Steps(b" -c ", 230)


def make_toolchain(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    manifest = recipe.manifest
    lay_out(recipe.toolchain, manifest.host_libraries, manifest.compile.target, context.store.fetch, out)


def make_python_src(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    def keep(name: str) -> str | None:
        inner = name.partition("/")[2]
        return inner if inner and not inner.startswith(_UNUSED) else None

    unpack_tar(context.store.fetch_any(recipe.cpython.files), out, keep)
    for patch in recipe.patches:
        patch.apply(out)


def make_native(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    work = _work_folder(out, needs["python-src"])
    log = context.open_log("native")
    env = clean_env({"CC": find_compiler(), "OPT": NATIVE_OPT, "CFLAGS": "-w", **_NO_PKG_CONFIG})
    context.run(
        ["./src/configure", "--disable-test-modules", "--without-ensurepip"],
        what="configuring CPython for this machine",
        cwd=work, env=env, log=log, part=(0.0, 0.45), steps=_CONFIGURE,
    )  # fmt: skip
    # Only the interpreter: freezing needs no extension module. And -B, by which the bootstrap
    # interpreter leaves no compiled files among the sources (it ignores the environment).
    context.run(
        [*context.make_command(recipe, work), "PYTHON_FOR_FREEZE=./_bootstrap_python -B", "python"],
        what="compiling CPython for this machine",
        cwd=work, env=env, log=log, part=(0.45, 1.0), steps=_COMPILE,
    )  # fmt: skip
    (work / "python").rename(out / "interpreter")
    # Without an installed library it must be told where that is, and it must never write there. A
    # script and not the environment, because CPython's Makefile sets PYTHONPATH itself.
    write_script(
        out / "python",
        f'PYTHONPATH="$here/../{needs["python-src"].name}/Lib" PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 '
        'exec "$here/interpreter" "$@"',
    )
    shutil.rmtree(work)


def make_instrumented(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    """CPython that counts what it does, and what configure found out, for the second compilation."""
    work, log = _work_folder(out, needs["python-src"]), context.open_log("instrumented")
    _configure(recipe, context, work, needs, log, end=0.3)
    _compile(recipe, context, work, log, [_flags_for("", recipe.manifest.training.instrument)], (0.3, 1.0))
    for archive in _archives(work):
        _move(archive, out / "lib")
    _copy_headers(work, out, needs)
    found = (work / CONFIG_CACHE).read_text(encoding="utf-8")
    (out / CONFIG_CACHE).write_text(portable_config_cache(found), encoding="utf-8")
    shutil.rmtree(work)


def make_libpython(
    trained: Trained | None, recipe: Recipe, context: BuildContext, out: Path, needs: Needs
) -> None:
    """CPython as it was trained, here or earlier: one object file, and its headers."""
    training, log = recipe.manifest.training, context.open_log("libpython")
    work = _work_folder(out, needs["python-src"])
    found = trained.config if trained else (needs["instrumented"] / CONFIG_CACHE).read_text(encoding="utf-8")
    (work / CONFIG_CACHE).write_text(found, encoding="utf-8")
    _configure(recipe, context, work, needs, log, end=0.03)
    flags = [
        _flags_for("", [f"-fprofile-use={needs['profile'] / PROFILE_FILE}", *training.use]),
        _flags_for(" ".join(training.alone), ["-fno-lto"]),
    ]
    _compile(recipe, context, work, log, flags, (0.03, 0.4))
    whole = work / f"libpython{recipe.cpython.series}.a"
    others = [str(archive) for archive in _archives(work) if archive != whole]
    (out / "lib").mkdir()
    context.run(
        [str(needs["toolchain"] / "cc"), *training.merge, f"-Wl,--thinlto-jobs={context.jobs}",
         "-o", str(out / "lib" / "python.o"),
         "-Wl,--whole-archive", str(whole), "-Wl,--no-whole-archive", *others],
        what="optimising CPython as a whole", cwd=work, env=wasm_env(recipe), log=log, part=(0.4, 1.0),
    )  # fmt: skip
    _copy_headers(work, out, needs)
    shutil.rmtree(work)


def _configure(
    recipe: Recipe, context: BuildContext, work: Path, needs: Needs, log: Path, *, end: float
) -> None:
    compiler, libraries, flags = needs["toolchain"], needs["libraries"], recipe.manifest.compile
    found = {}
    for pin, _ in recipe.libraries:
        found[f"{pin.configure}_CFLAGS"] = f"-I{libraries / 'include'}"
        found[f"{pin.configure}_LIBS"] = f"-L{libraries / 'lib'} -l{pin.archive}"
    env = wasm_env(
        recipe,
        {
            "CC": str(compiler / "cc"),
            "CXX": "false",
            "CPP": f"{compiler / 'cc'} -E",
            "AR": str(compiler / "ar"),
            "RANLIB": str(compiler / "ranlib"),
            "OPT": " ".join(flags.opt),
            "CFLAGS": " ".join([*recipe.toolchain.cflags, *prefix_maps(work, needs)]),
            **found,
            "CONFIG_SITE": str(needs["python-src"] / recipe.cpython.config_site),
            "HOSTRUNNER": "true",
            **_NO_PKG_CONFIG,
        },
    )
    context.run(
        ["./src/configure", f"--cache-file={CONFIG_CACHE}", f"--host={flags.target}",
         f"--build={recipe.toolchain.machine}-pc-linux-gnu",
         f"--with-build-python={needs['native'] / 'python'}", *flags.configure],
        what="configuring CPython for wasm",
        cwd=work, env=env, log=log, part=(0.0, end), steps=_CONFIGURE,
    )  # fmt: skip


def _flags_for(objects: str, flags: Sequence[str]) -> str:
    """A line of a makefile: more flags for some object files, or for all. configure must not see them."""
    target = f"{objects}: " if objects else ""
    return f"{target}EXTRA_CFLAGS += {' '.join(flags)}\n"


def _compile(
    recipe: Recipe,
    context: BuildContext,
    work: Path,
    log: Path,
    flags: Sequence[str],
    part: tuple[float, float],
) -> None:
    small = _flags_for(" ".join(recipe.manifest.compile.small), ["-Os"])
    (work / "flags.mk").write_text("".join([*flags, small]), encoding="ascii")
    context.run(
        [*context.make_command(recipe, work), "-f", "Makefile", "-f", "flags.mk",
         f"libpython{recipe.cpython.series}.a"],
        what="compiling CPython to wasm",
        cwd=work, env=wasm_env(recipe), log=log, part=part, steps=_COMPILE,
    )  # fmt: skip


def _archives(work: Path) -> list[Path]:
    return sorted(path for path in work.rglob("*.a") if "src" not in path.relative_to(work).parts)


def _move(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    path.rename(folder / path.name)


def _copy_headers(work: Path, out: Path, needs: Needs) -> None:
    shutil.copytree(needs["python-src"] / "Include", out / "include")
    shutil.copyfile(work / "pyconfig.h", out / "include" / "pyconfig.h")


def portable_config_cache(text: str) -> str:
    """Return of configure's cache only what it found out about the target: no path, no environment."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("ac_cv_") and not _CONFIG_OF_MACHINE.match(line))


def _work_folder(out: Path, source: Path) -> Path:
    """A folder whose `src` is a link to the sources: the path CPython sees is always the same."""
    work = out / "work"
    work.mkdir()
    (work / "src").symlink_to(source)
    return work
