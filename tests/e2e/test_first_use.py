"""What is done once for a machine is shown: a bar where stderr is a terminal, a line where it is not."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.command_line import SECONDS_MAX, environment
from tests.support.terminal import open_terminal, written

PROGRAM = """
from rlm_wasm.artifacts.first_use import once
from rlm_wasm.cli.first_use import show_first_use, wait_for_first_use
show_first_use()
with once("compiling the guest for this machine"):
    pass
wait_for_first_use()
print("done")
"""


def run(stderr: int) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE, stderr=stderr, check=True, timeout=SECONDS_MAX,
        env=environment(TERM="xterm-256color", COLUMNS="100"),
    ).stdout  # fmt: skip


def test_where_there_is_no_terminal_it_is_one_line() -> None:
    reader, writer = os.pipe()
    assert run(writer) == b"done\n"
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read() == (
            b"compiling the guest for this machine; this is done once, and takes some seconds\n"
        )


def test_on_a_terminal_it_is_a_bar_that_goes_away() -> None:
    ours, theirs = open_terminal()
    assert run(theirs) == b"done\n"
    os.close(theirs)
    shown = written(ours).decode()
    assert "compiling the guest for this machine, once" in shown
    assert "0:00:0" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the line is taken away at the end
