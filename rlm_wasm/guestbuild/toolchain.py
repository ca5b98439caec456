"""Lays out a compiler for wasm from Debian packages, without installing anything.

cc ar ranlib profdata   wrappers that find everything relative to themselves
usr/                    clang, lld, llvm-ar, llvm-profdata and the libraries they need
sysroot/                wasi-libc's headers and libraries
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.archive import Keep, below, unpack_deb
from rlm_wasm.guestbuild.build_host import clean_env, find_compiler, write_script
from rlm_wasm.guestbuild.manifest import HostFile, PinnedFile, ToolchainPin

Fetch = Callable[[PinnedFile], Path]

_PROGRAMS: Final = ("clang", "lld", "wasm-ld", "llvm-ar", "llvm-ranlib", "llvm-profdata")
_CURL: Final = "libcurl.so.4"
_NOT_FOUND: Final = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
# Chains of libraries that need libraries are short; this only ends a loop that cannot end well.
_ROUNDS_MAX: Final = 8


def lay_out(
    pin: ToolchainPin, libraries: tuple[HostFile, ...], target: str, fetch: Fetch, into: Path
) -> None:
    """Fill `into` with the toolchain `pin` for `target`, fetching host libraries the machine lacks.

    Raises:
        GuestBuildError: a package cannot be had, or the compiler does not run on this machine.
    """
    library_dir = f"usr/lib/{pin.machine}-linux-gnu"
    major = pin.llvm.rpartition("-")[2]
    programs = [f"{pin.llvm}/bin/{name}" for name in _PROGRAMS]
    keep = _either(below(f"{pin.llvm}/lib/clang", *programs), _libraries(library_dir))
    for package in pin.packages:
        unpack_deb(fetch(package), into, keep)
    unpack_deb(fetch(pin.wasi_libc), into, _sysroot)
    # The names under which Debian's clang looks for its linker and its runtime; which of the two it
    # takes for the runtime depends on the release.
    (into / pin.llvm / "bin" / f"wasm-ld-{major}").symlink_to("wasm-ld")
    architecture, _, system = target.partition("-")
    runtime = into / pin.llvm / "lib" / "clang" / major / "lib" / f"{architecture}-unknown-{system}"
    runtime.mkdir(parents=True)
    (runtime / "libclang_rt.builtins.a").symlink_to(f"../wasi/libclang_rt.builtins-{architecture}.a")
    start = f'LD_LIBRARY_PATH="$here/{library_dir}" exec "$here/{pin.llvm}/bin/'
    write_script(into / "cc", f'{start}clang" --target={target} --sysroot="$here/sysroot" "$@"')
    write_script(into / "ar", f'{start}llvm-ar" "$@"')
    write_script(into / "ranlib", f'{start}llvm-ranlib" "$@"')
    write_script(into / "profdata", f'{start}llvm-profdata" "$@"')
    _without_network(into / library_dir)
    _complete(pin, {library.name: library for library in libraries}, fetch, into, library_dir)
    _trial(pin, into / "cc", "--version")
    _trial(pin, into / "profdata", "merge", "--version")


def _complete(
    pin: ToolchainPin, known: Mapping[str, HostFile], fetch: Fetch, into: Path, library_dir: str
) -> None:
    tools = [into / pin.llvm / "bin" / name for name in ("clang", "wasm-ld", "llvm-ar", "llvm-profdata")]
    for _ in range(_ROUNDS_MAX):
        missing = sorted({name for tool in tools for name in _missing(tool, into / library_dir)})
        if not missing:
            return
        for name in missing:
            if name not in known:
                raise GuestBuildError(
                    f"{pin.name} needs {name}, which this machine lacks",
                    hint="install the package that provides it",
                )
            unpack_deb(fetch(known[name].file), into, _libraries(library_dir))
    raise GuestBuildError(f"{pin.name} still lacks {', '.join(missing)}")


def _missing(tool: Path, libraries: Path) -> list[str]:
    """Ask the dynamic loader which libraries of `tool` it cannot find; nothing is run."""
    env = clean_env({"LD_TRACE_LOADED_OBJECTS": "1", "LD_LIBRARY_PATH": str(libraries)})
    try:
        done = subprocess.run([str(tool)], env=env, capture_output=True, text=True, check=False)
    except OSError as error:
        raise _unfit(tool.name, str(error.strerror)) from error
    missing = _NOT_FOUND.findall(done.stdout)
    if done.returncode != 0 and not missing:
        raise _unfit(tool.name, done.stderr)
    return missing


def _without_network(libraries: Path) -> None:
    """Put an empty library where llvm-profdata looks for libcurl.

    It would fetch debug information with it, which nothing here asks for; and a machine that lacks
    libcurl would need some twenty packages for it. A call of it would end the program.
    """
    libraries.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder, "versions")
        versions.write_text("CURL_OPENSSL_4 { local: *; };\n", encoding="ascii")
        done = subprocess.run(
            [find_compiler(), "-shared", "-nostdlib", "-x", "c", os.devnull, "-o", str(libraries / _CURL),
             f"-Wl,-soname,{_CURL}", f"-Wl,--version-script,{versions}"],
            env=clean_env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise _unfit(_CURL, done.stderr)


def _trial(pin: ToolchainPin, program: Path, *arguments: str) -> None:
    """Run a program once: a C library that is too old shows only now."""
    done = subprocess.run(
        [str(program), *arguments], env=clean_env(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise _unfit(pin.name, done.stderr)


def _unfit(name: str, reason: str) -> GuestBuildError:
    first = next(iter(reason.splitlines()), "it failed without a word")
    return GuestBuildError(
        f"{name} does not run on this machine: {first}",
        hint="the pinned toolchains need a Linux with glibc 2.36 or newer",
    )


def _sysroot(name: str) -> str | None:
    """wasi-libc's usr/include/wasm32-* and usr/lib/wasm32-*, under sysroot/."""
    parts = name.split("/")
    if len(parts) >= 3 and parts[0] == "usr" and parts[1] in ("include", "lib"):
        if not parts[2].startswith("wasm32-"):
            return None
        return "/".join(("sysroot", *parts[1:]))
    return None


def _libraries(folder: str) -> Keep:
    """The shared libraries of /lib and /usr/lib, all into `folder`."""
    short = folder.removeprefix("usr/")

    def keep(name: str) -> str | None:
        parent, _, file = name.rpartition("/")
        return f"{folder}/{file}" if parent in (folder, short) and ".so" in file else None

    return keep


def _either(*keeps: Keep) -> Keep:
    def keep(name: str) -> str | None:
        return next((new for each in keeps if (new := each(name)) is not None), None)

    return keep
