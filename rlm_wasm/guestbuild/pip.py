"""The pip of the running Python, asked to download: the one place that starts it. Nothing it fetches runs.

A requirement or a wheel may point straight at a source archive or a repository, whatever pip is told about
binaries, and for such it would run a build. So it runs where no process can be started, and it is imported
from its own place, not from the folder that somebody happens to be in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

_MISSING: Final = "No module named pip"
# pip does builds, hooks and repositories in processes of their own, and does without the few others that it
# asks about the machine: a PermissionError is what starting those may raise anyway.
_ALONE: Final = """
import runpy, sys

EVENTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}

def refuse(event, args):
    if event in EVENTS:
        raise PermissionError(1, "what is downloaded may not be built, and pip starts no process here")

sys.addaudithook(refuse)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


class PipFailed(Exception):
    """pip could not be run, or did not bring the files; the text is its reason."""


class PipMissing(PipFailed):
    """The running Python has no pip."""


def pip_download(arguments: Sequence[str], *, seconds_max: int) -> None:
    """Run `pip download`, which starts no process. Raises PipFailed."""
    _run(["-c", _ALONE], arguments, seconds_max, os.environ)


def pip_download_with_backend(arguments: Sequence[str], *, modules: str, seconds_max: int) -> None:
    """Run `pip download` for source distributions, which asks build backends, in processes of their own.

    They are the modules in the folder `modules`; it is the caller who sees to it that no other is asked.
    Raises PipFailed.
    """
    _run(["-m", "pip"], arguments, seconds_max, {**os.environ, "PYTHONPATH": modules})


def _run(program: Sequence[str], arguments: Sequence[str], seconds_max: int, env: Mapping[str, str]) -> None:
    flags = ["--disable-pip-version-check", "--no-input", "--quiet"]
    argv = [sys.executable, "-P", *program, "download", *flags, *arguments]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds_max, check=False, env=env,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PipFailed(str(error)) from error
    if done.returncode != 0:
        if done.stderr.rstrip().endswith(_MISSING):
            raise PipMissing(f"{sys.executable} has no pip")
        raise PipFailed(_reason(done.stderr or done.stdout) or f"exit status {done.returncode}")


def _reason(said: str) -> str:
    """The last error of pip's own; or the last line, which a traceback's exception is on."""
    lines = said.strip().splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if errors and errors[-1] != "Exception:":
        return errors[-1]
    return lines[-1] if lines else ""
