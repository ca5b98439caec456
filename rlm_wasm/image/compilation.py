"""The stages that compile: toolchain, sources, zlib; CPython for this machine, and for wasm twice.

Each function fills the folder `out` of its stage from the published folders in `needs`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.image.archive import unpack_tar
from rlm_wasm.image.host import clean_env, find_compiler, write_script
from rlm_wasm.image.progress import Steps
from rlm_wasm.image.recipe import Recipe
from rlm_wasm.image.toolchain import lay_out
from rlm_wasm.image.workshop import Needs, Workshop, prefix_maps, wasm_env

# It only freezes modules: compiling it quickly matters more than what it then takes.
NATIVE_OPT: Final = "-DNDEBUG -O0 -g0"
# What the training leaves, and what configure found out about the target.
PROFILE_FILE: Final = "guest.profdata"
CONFIG_CACHE_FILE: Final = "config.cache"
_CONFIG_OF_MACHINE: Final = re.compile(r"ac_cv_(env|path|prog|build|host)")
# Parts of CPython's tarball that no stage reads.
_UNUSED: Final = ("Doc/", "Lib/test/", "Lib/idlelib/", "Misc/NEWS.d/", "PCbuild/")
# Libraries of this machine must not be found.
_NO_PKG_CONFIG: Final = {"PKG_CONFIG_PATH": "", "PKG_CONFIG_LIBDIR": "/nonexistent"}
# For the progress bar only.
_CONFIGURE, _COMPILE = Steps(b"checking ", 780), Steps(b" -c ", 230)


def make_toolchain(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    manifest = recipe.manifest
    lay_out(recipe.toolchain, manifest.host_libraries, manifest.compile.target, shop.store.fetch, out)


def make_python_src(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    def keep(name: str) -> str | None:
        inner = name.partition("/")[2]
        return inner if inner and not inner.startswith(_UNUSED) else None

    unpack_tar(shop.store.fetch_any(recipe.cpython.files), out, keep)
    for patch in recipe.patches:
        patch.apply(out)


def make_native(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    work = _work_folder(out, needs["python-src"])
    log = shop.open_log("native")
    env = clean_env({"CC": find_compiler(), "OPT": NATIVE_OPT, "CFLAGS": "-w", **_NO_PKG_CONFIG})
    shop.run(
        ["./src/configure", "--disable-test-modules", "--without-ensurepip"],
        what="configuring CPython for this machine",
        cwd=work, env=env, log=log, part=(0.0, 0.45), steps=_CONFIGURE,
    )  # fmt: skip
    # Only the interpreter: freezing needs no extension module. And -B, by which the bootstrap
    # interpreter leaves no compiled files among the sources (it ignores the environment).
    shop.run(
        [*shop.make_command(recipe, work), "PYTHON_FOR_FREEZE=./_bootstrap_python -B", "python"],
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


def make_zlib(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    def keep(name: str) -> str | None:
        inner = name.partition("/")[2]
        return inner if inner.endswith((".c", ".h")) and "/" not in inner else None

    work, compiler, log = out / "work", needs["toolchain"], shop.open_log("zlib")
    unpack_tar(shop.store.fetch_any(recipe.zlib.files), work, keep)
    flags, env = recipe.manifest.compile, wasm_env(recipe)
    shop.run(
        [str(compiler / "cc"), *flags.opt, *prefix_maps(work, needs), "-c", *flags.zlib_sources],
        what="compiling zlib", cwd=work, env=env, log=log,
    )  # fmt: skip
    (out / "lib").mkdir()
    objects = [Path(source).with_suffix(".o").name for source in flags.zlib_sources]
    shop.run(
        [str(compiler / "ar"), "rcsD", str(out / "lib" / "libz.a"), *objects],
        what="archiving zlib", cwd=work, env=env, log=log,
    )  # fmt: skip
    (out / "include").mkdir()
    for header in ("zlib.h", "zconf.h"):
        shutil.copyfile(work / header, out / "include" / header)
    shutil.rmtree(work)


def make_instrumented(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    """CPython that counts what it does, and what configure found out, for the second compilation."""
    _compile_cpython(recipe, shop, out, needs, "instrumented", recipe.manifest.training.instrument)


def make_libpython(recipe: Recipe, shop: Workshop, out: Path, needs: Needs) -> None:
    profile = needs["profile"] / PROFILE_FILE
    flags = (f"-fprofile-use={profile}", *recipe.manifest.training.use)
    _compile_cpython(recipe, shop, out, needs, "libpython", flags, needs["instrumented"] / CONFIG_CACHE_FILE)


def _compile_cpython(
    recipe: Recipe, shop: Workshop, out: Path, needs: Needs, name: str, extra: Sequence[str],
    config_cache: Path | None = None,
) -> None:  # fmt: skip
    source, compiler, zlib = needs["python-src"], needs["toolchain"], needs["zlib"]
    flags = recipe.manifest.compile
    work, log = _work_folder(out, source), shop.open_log(name)
    if config_cache is not None:
        shutil.copyfile(config_cache, work / CONFIG_CACHE_FILE)
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
            "ZLIB_CFLAGS": f"-I{zlib / 'include'}",
            "ZLIB_LIBS": f"-L{zlib / 'lib'} -lz",
            "CONFIG_SITE": str(source / recipe.cpython.config_site),
            "HOSTRUNNER": "true",
            **_NO_PKG_CONFIG,
        },
    )
    configured = 0.3 if config_cache is None else 0.05
    shop.run(
        ["./src/configure", f"--cache-file={CONFIG_CACHE_FILE}", f"--host={flags.target}",
         f"--build={recipe.toolchain.machine}-pc-linux-gnu",
         f"--with-build-python={needs['native'] / 'python'}", *flags.configure],
        what="configuring CPython for wasm",
        cwd=work, env=env, log=log, part=(0.0, configured), steps=_CONFIGURE,
    )  # fmt: skip
    # Not in CFLAGS: configure's own programs are not to be counted.
    flags_file = work / "flags.mk"
    flags_file.write_text(
        f"EXTRA_CFLAGS += {' '.join(extra)}\n{' '.join(flags.small)}: EXTRA_CFLAGS += -Os\n", encoding="ascii"
    )
    shop.run(
        [*shop.make_command(recipe, work), "-f", "Makefile", "-f", flags_file.name,
         f"libpython{recipe.cpython.series}.a"],
        what="compiling CPython to wasm",
        cwd=work, env=env, log=log, part=(configured, 1.0), steps=_COMPILE,
    )  # fmt: skip
    (out / "lib").mkdir()
    for archive in sorted(work.rglob("*.a")):
        if "src" not in archive.relative_to(work).parts:
            archive.rename(out / "lib" / archive.name)
    shutil.copytree(source / "Include", out / "include")
    shutil.copyfile(work / "pyconfig.h", out / "include" / "pyconfig.h")
    if config_cache is None:
        found = (work / CONFIG_CACHE_FILE).read_text(encoding="utf-8")
        (out / CONFIG_CACHE_FILE).write_text(portable_config_cache(found), encoding="utf-8")
    shutil.rmtree(work)


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
