"""The command line before it does anything: an early Ctrl-C, a full disk under its output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import COMMAND, SECONDS_MAX, environment

# Sends SIGINT to its own process, for real, at the moment a module begins to be imported.
AT_IMPORT = """
import importlib.abc, os, signal, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Watch())
sys.argv = ["rlm-wasm", *sys.argv[1:]]
from rlm_wasm.cli.start import entry
entry()
"""


def interrupted_at(module: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_IMPORT, *arguments],
        capture_output=True, timeout=SECONDS_MAX, env=environment(INTERRUPT_AT=module),
    )  # fmt: skip


@pytest.mark.guest
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("rlm_wasm.cli.main", ["--help"]),
        ("click", ["--help"]),
        ("rlm_wasm.cli.run", ["run", "--policy", "strict", "?"]),
        ("anyio", ["run", "--policy", "strict", "?"]),
        ("pydantic_core", ["run", "--policy", "strict", "?"]),
        ("rlm_wasm.api.runtime", ["run", "--policy", "strict", "?"]),
        ("rlm_wasm.host.pool", ["run", "--policy", "strict", "?"]),
        ("rlm_wasm.inline.worker", ["exec", "--policy", "standard", "-"]),
        ("rlm_wasm.api.sandbox", ["exec", "-"]),
        ("rlm_wasm.replay.replay", ["replay", "none.jsonl"]),
        ("rlm_wasm.policy.model", ["policy", "show", "strict"]),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line_and_status_130(module: str, arguments: list[str]) -> None:
    ended = interrupted_at(module, *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"error: interrupted\n")


def test_the_interrupt_of_these_tests_is_a_real_one() -> None:
    """Without the handler that is there from the start, the same signal is a traceback."""
    source = AT_IMPORT.replace("entry()\n", "").replace(
        "rlm_wasm.cli.start import entry", "click import echo"
    )
    ended = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, timeout=SECONDS_MAX, env=environment(INTERRUPT_AT="click"),
    )  # fmt: skip
    assert b"Traceback" in ended.stderr
    assert ended.returncode == -signal.SIGINT


def test_who_has_interrupts_ignored_keeps_them_ignored() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(2, signal.SIG_IGN)\n" + AT_IMPORT, "--version"],
        capture_output=True, timeout=SECONDS_MAX, env=environment(INTERRUPT_AT="click"),
    )  # fmt: skip
    assert ended.returncode == 0
    assert b"rlm-wasm" in ended.stdout


@pytest.mark.guest
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["guest", "info"],
        ["guest", "verify"],
        ["policy", "show", "strict"],
        ["policy", "check", "strict"],
        ["--help"],
        ["policy", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_full_disk_under_stdout_is_told_once_and_is_no_bug_of_ours(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=SECONDS_MAX,
            env=environment(),
        )
    assert ended.returncode == 2
    assert ended.stderr.count(b"No space left on device") == 1
    assert b"bug" not in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_full_disk_under_stderr_too_leaves_the_status() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = subprocess.run(
            [*COMMAND, "policy", "show", "strict"],
            # Empty: buffered, so that something is still to be written when Python ends.
            stdout=full, stderr=full, timeout=SECONDS_MAX, env=environment(PYTHONUNBUFFERED=""),
        )  # fmt: skip
    finally:
        os.close(full)
    assert ended.returncode == 2
