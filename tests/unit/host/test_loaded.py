"""The process that holds the keys, after a cell: what it has loaded for its locked worker, and what not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlm_wasm.lockdown import Grade
from tests.support.command_line import SECONDS_MAX, environment
from tests.support.machine_grade import POLICY_HERE, needs

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-198")]

_SCRIPT = """
import json, sys
from rlm_wasm import Policy, Sandbox

result = Sandbox(Policy.builtin(sys.argv[1])).exec_sync("6*7").result
print(json.dumps([result, sorted(sys.modules)]))
"""
_UNWANTED = ("wasmtime", "rlm_wasm.vm", "rlm_wasm.jail", "rlm_wasm.inline", "rlm_wasm.guestbuild")


def loaded_under(policy: str) -> list[str]:
    """Return what of the unwanted an application has loaded once a cell has run under a built-in policy."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, policy],
        capture_output=True, check=True, timeout=SECONDS_MAX, env=environment(),
    )  # fmt: skip
    result, modules = json.loads(done.stdout)
    assert result == "42"
    return [name for name in _UNWANTED if name in modules]


@needs(Grade.FILTERED)
def test_with_a_locked_worker_the_guests_machine_is_not_loaded() -> None:
    assert loaded_under(POLICY_HERE) == []


def test_inline_it_is_and_nothing_of_a_worker_process() -> None:
    assert loaded_under("standard") == ["wasmtime", "rlm_wasm.vm", "rlm_wasm.inline"]
