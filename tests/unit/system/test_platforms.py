"""A system without what guests need is told so in a line, before anything of that system is missed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlm_wasm.system.platforms import not_supported
from tests.support.command_line import environment


def test_linux_runs_guests() -> None:
    assert not_supported("linux") is None


@pytest.mark.parametrize(
    ("platform", "way"),
    [("darwin", "macOS"), ("win32", "WSL 2"), ("freebsd14", "freebsd14: run it in a Linux")],
)
def test_every_other_system_has_one_line_and_a_way_out(platform: str, way: str) -> None:
    told = not_supported(platform)
    assert told is not None
    assert told[0].startswith("rlm-wasm runs on Linux")
    assert way in told[1]
    assert all("\n" not in line for line in told)


# As there: the modules that only Linux or Unix has cannot be imported.
ELSEWHERE = """
import sys
sys.platform = "win32"
for name in ("fcntl", "resource", "termios"):
    sys.modules[name] = None
from rlm_wasm.cli.start import entry
entry(["doctor"])
"""


def test_the_command_says_so_before_it_imports_what_is_not_there() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"]
    assert "rlm-wasm runs on Linux" in lines[0]
    assert "WSL 2" in lines[1]
