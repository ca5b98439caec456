"""A hook that never comes back: its run ends at the bound, and the program ends too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command_line import ROOT, SECONDS_MAX
from tests.support.machine_grade import POLICY_HERE

SOURCE = f"""
import threading
from rlm_wasm import Policy, Runtime

def on_cell(cell):
    threading.Event().wait()

policy = Policy.builtin({POLICY_HERE!r}).replace(run={{"hook_ms_max": 50}})
result = Runtime(policy, model="script:examples/needle/model.toml").ask_sync("?", "noise", on_cell=on_cell)
print(result.reason, result.stop.key)
"""


@pytest.mark.guest
def test_a_function_that_never_returns_keeps_neither_its_run_nor_its_program() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SOURCE],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hook_failed: no verdict within 50 ms run.hook_ms_max\n")
    assert done.stderr == ""
