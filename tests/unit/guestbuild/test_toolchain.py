"""Laying out a toolchain from packages: nothing is installed, and what is missing is found out."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tarfile
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_host import find_compiler
from rlm_wasm.guestbuild.manifest import HostFile, PinnedFile, ToolchainPin
from rlm_wasm.guestbuild.toolchain import lay_out
from tests.unit.guestbuild.support import deb, member, pin

MACHINE = platform.machine()
LIBRARIES = f"usr/lib/{MACHINE}-linux-gnu"
COMPILER_PIN, LIBC_PIN, LIBRARY_PIN = pin(b"compiler"), pin(b"libc"), pin(b"library")
TOOLCHAIN = ToolchainPin("clang-99", MACHINE, "usr/lib/llvm-99", (), (COMPILER_PIN,), LIBC_PIN)


class Packages:
    """A program that stands for clang, and a library of ours that it needs, as packages."""

    def __init__(self, folder: Path, program: bytes, library: bytes | None = None) -> None:
        self.fetched: list[PinnedFile] = []
        tools = (
            (f"./usr/lib/llvm-99/bin/{name}", program)
            for name in ("clang", "lld", "llvm-ar", "llvm-profdata")
        )
        self._files = {
            COMPILER_PIN: deb(
                folder / "compiler.deb",
                *(member(name, content, mode=0o755) for name, content in tools),
                member("./usr/lib/llvm-99/bin/wasm-ld", type=tarfile.SYMTYPE, linkname="lld"),
                member("./usr/lib/llvm-99/lib/clang/99/lib/wasi/libclang_rt.builtins-wasm32.a", b"runtime"),
                member("./usr/lib/llvm-99/bin/other", b"not needed"),
                member("./usr/share/doc/clang", b"not needed"),
            ),
            LIBC_PIN: deb(
                folder / "libc.deb",
                member("./usr/include/wasm32-wasi/stdio.h", b"header"),
                member("./usr/lib/wasm32-wasi/libc.a", b"archive"),
                member("./usr/lib/wasm32-wasip1", type=tarfile.SYMTYPE, linkname="wasm32-wasi"),
            ),
        }
        if library is not None:
            name = f"./lib/{MACHINE}-linux-gnu/libabsent.so.1"
            self._files[LIBRARY_PIN] = deb(folder / "library.deb", member(name, library))

    def fetch(self, file: PinnedFile) -> Path:
        self.fetched.append(file)
        return self._files[file]


def compile_program(folder: Path) -> tuple[bytes, bytes]:
    """A program that prints its arguments and needs libabsent.so.1, and that library."""
    (folder / "library.c").write_text("int absent(void) { return 0; }\n")
    (folder / "program.c").write_text(
        "#include <stdio.h>\nint absent(void);\n"
        "int main(int n, char **v) { for (int i = 1; i < n; i++) puts(v[i]); return absent(); }\n"
    )
    cc, library = find_compiler(), folder / "libabsent.so.1"
    shared = ["-shared", "-fPIC", "-Wl,-soname,libabsent.so.1"]
    subprocess.run([cc, *shared, "-o", library, folder / "library.c"], check=True)
    subprocess.run([cc, "-o", folder / "program", folder / "program.c", library], check=True)
    return (folder / "program").read_bytes(), library.read_bytes()


def test_the_compiler_runs_from_where_it_lies_with_a_library_the_machine_lacks(tmp_path: Path) -> None:
    packages = Packages(tmp_path, *compile_program(tmp_path))
    known = (HostFile("libabsent.so.1", "", LIBRARY_PIN),)
    lay_out(TOOLCHAIN, known, "wasm32-wasip1", packages.fetch, tmp_path / "made")
    moved = (tmp_path / "made").rename(tmp_path / "published")
    done = subprocess.run([moved / "cc", "-c", "a b.c"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["--target=wasm32-wasip1", f"--sysroot={moved}/sysroot", "-c", "a b.c"]
    assert (moved / LIBRARIES / "libabsent.so.1").is_file()
    assert (moved / "sysroot/lib/wasm32-wasip1/libc.a").read_bytes() == b"archive"
    assert (moved / "usr/lib/llvm-99/bin/wasm-ld-99").resolve().name == "lld"
    runtime = moved / "usr/lib/llvm-99/lib/clang/99/lib/wasm32-unknown-wasip1/libclang_rt.builtins.a"
    assert runtime.read_bytes() == b"runtime"
    assert not (moved / "usr/lib/llvm-99/bin/other").exists()
    assert not (moved / "usr/share").exists()


def test_no_program_of_the_toolchain_finds_a_library_for_the_network(tmp_path: Path) -> None:
    """llvm-profdata names libcurl; what it finds is empty, also where the machine has the real one."""
    packages = Packages(tmp_path, Path("/bin/true").read_bytes())
    lay_out(TOOLCHAIN, (), "wasm32-wasip1", packages.fetch, tmp_path / "made")
    found = ctypes.CDLL(str(tmp_path / "made" / LIBRARIES / "libcurl.so.4"))
    assert not hasattr(found, "curl_easy_init")
    assert LIBRARIES in (tmp_path / "made" / "profdata").read_text()


def test_libraries_the_machine_has_are_not_fetched(tmp_path: Path) -> None:
    packages = Packages(tmp_path, Path("/bin/true").read_bytes())
    known = (HostFile("libc.so.6", "", LIBRARY_PIN),)
    lay_out(TOOLCHAIN, known, "wasm32-wasip1", packages.fetch, tmp_path / "made")
    assert packages.fetched == [COMPILER_PIN, LIBC_PIN]


def test_a_library_that_nobody_pins_is_a_clear_error(tmp_path: Path) -> None:
    packages = Packages(tmp_path, compile_program(tmp_path)[0])
    with pytest.raises(GuestBuildError, match=r"clang-99 needs libabsent\.so\.1, which this machine lacks"):
        lay_out(TOOLCHAIN, (), "wasm32-wasip1", packages.fetch, tmp_path / "made")


def test_a_compiler_that_fails_its_trial_is_a_clear_error(tmp_path: Path) -> None:
    packages = Packages(tmp_path, Path("/bin/false").read_bytes())
    with pytest.raises(GuestBuildError, match="clang-99 does not run on this machine") as unfit:
        lay_out(TOOLCHAIN, (), "wasm32-wasip1", packages.fetch, tmp_path / "made")
    assert "glibc" in str(unfit.value.hint)


def test_a_compiler_for_another_machine_is_a_clear_error(tmp_path: Path) -> None:
    packages = Packages(tmp_path, b"\x7fELF" + bytes(60))
    with pytest.raises(GuestBuildError, match="clang does not run on this machine"):
        lay_out(TOOLCHAIN, (), "wasm32-wasip1", packages.fetch, tmp_path / "made")
