"""The tools that the build needs of this machine: a C compiler for the machine itself, make, a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError

APT_LINE: Final = (
    "install one, on Debian or Ubuntu with: sudo apt-get install --no-install-recommends gcc libc6-dev"
)
_COMPILERS: Final = ("gcc", "cc", "clang")
_PROGRAM: Final = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'


def find_compiler() -> str:
    """Return a C compiler that can build a program for this machine.

    Raises:
        GuestBuildError: there is none, or it lacks the C library's headers.
    """
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise GuestBuildError("no C compiler is installed (looked for gcc, cc, clang)", hint=APT_LINE)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.c")
        source.write_text(_PROGRAM, encoding="ascii")
        done = subprocess.run(
            [compiler, str(source), "-o", str(Path(folder, "program"))],
            capture_output=True, text=True, errors="replace", check=False, env=clean_env(),
        )  # fmt: skip
    if done.returncode != 0:
        first = next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
        raise GuestBuildError(f"the C compiler {compiler} cannot build a program: {first}", hint=APT_LINE)
    return compiler


def find_make() -> str | None:
    """Return the machine's GNU make, or None."""
    return shutil.which("gmake") or shutil.which("make")


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which the user's flags and locale cannot change what is built."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "TZ": "UTC",
        "TMPDIR": tempfile.gettempdir(),
    }
    env.update(extra or {})
    return env


def write_script(path: Path, text: str) -> None:
    """Write a shell script, in which $here is the folder it lies in."""
    path.write_text(f"#!/bin/sh\nhere=${{0%/*}}\n{text}\n", encoding="ascii")
    path.chmod(0o755)
