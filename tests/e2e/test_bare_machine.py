"""A machine that refuses new namespaces: its commands answer, its tests pass, and what is skipped says why.

The short form of `just check-bare`: a part of each kind of test, on such a machine made of this one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.lockdown import Grade
from tests.support.machine_grade import HERE, needs

pytestmark = [pytest.mark.guest, needs(Grade.FILTERED)]

ROOT = Path(__file__).parents[2]
# Until something hangs: a busy machine takes minutes.
SECONDS_MAX = 1_200
# One of each kind: policies by name and by file, a program, sessions in processes, zygotes, pools.
TESTS = (
    "tests/e2e/test_run_command.py::test_the_example_is_answered",
    "tests/e2e/test_exec_command.py::test_a_deadline_ends_a_loop_with_fuel_left",
    "tests/unit/api/test_sandbox_facade.py::test_exec_sync_runs_a_cell_and_can_be_called_again",
    "tests/unit/api/test_sandbox_facade.py::test_a_runtime_and_a_sandbox_may_be_opened_again",
    "tests/unit/api/test_snapshots.py::test_the_policys_key_saves_and_loads",
    "tests/unit/host/test_zygote.py",
    "tests/unit/host/test_examination.py",
    "tests/unit/host/test_pool.py::test_every_layer_of_the_lock_down_stands_where_it_is_required",
    "tests/adversarial/test_hostile_worker.py::test_strict_runs_each_guest_in_a_locked_process_of_its_own",
    "tests/adversarial/test_locked_worker.py::test_a_compromised_worker_gets_nothing",
)


def _on_a_bare_machine(*command: str) -> subprocess.CompletedProcess[str]:
    bare = [sys.executable, "-m", "tests.support.refused_namespaces", Grade.FILTERED.value]
    return subprocess.run(
        [*bare, sys.executable, "-m", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip


def test_it_is_told_which_policy_runs_there_and_a_session_says_what_it_had() -> None:
    told = _on_a_bare_machine("rlm_wasm", "doctor", "--policy")
    assert (told.returncode, told.stdout) == (0, "container\n")
    assert told.stderr.startswith("lock-down here: filtered, ")
    looked = _on_a_bare_machine("rlm_wasm", "doctor")
    assert looked.returncode == 0, looked.stdout
    assert re.search(r"^ --  lock-down +filtered, ", looked.stdout, re.MULTILINE)
    assert re.search(r"^ ok  a session +6\*7 is 42, under the policy container$", looked.stdout, re.MULTILINE)


def test_strict_does_not_run_there_and_names_the_policy_that_does(tmp_path: Path) -> None:
    source = tmp_path / "cell.py"
    source.write_text("6*7")
    refused = _on_a_bare_machine("rlm_wasm", "exec", "--policy", "strict", str(source))
    assert refused.returncode == 2
    assert "user namespace: Operation not permitted" in refused.stderr
    assert "`container`" in refused.stderr
    done = _on_a_bare_machine("rlm_wasm", "exec", "--json", "--policy", "container", str(source))
    assert done.returncode == 0
    assert '"lockdown": "filtered"' in done.stdout


def test_workers_are_measured_there_under_what_it_gives() -> None:
    only = ("--only", "locked_first_result_ms", "--only", "pool_cell_ms")
    measured = _on_a_bare_machine("rlm_wasm", "bench", "--json", "--quick", *only)
    assert measured.returncode == 0, measured.stderr
    assert {row["name"] for row in json.loads(measured.stdout)} == set(only[1::2])


@pytest.mark.skipif(HERE is Grade.FILTERED, reason="these tests run on such a machine already")
def test_the_tests_of_this_project_pass_there() -> None:
    done = _on_a_bare_machine("pytest", "-q", "--no-header", "-p", "no:cacheprovider", *TESTS)
    assert done.returncode == 0, done.stdout[-5_000:]
    summary = done.stdout.splitlines()[-1]
    counts = dict(reversed(part.split(maxsplit=1)) for part in summary.partition(" in ")[0].split(", "))
    assert int(counts["passed"]) > 100
    assert int(counts["skipped"]) > 80
    assert "needs a full lock-down (user namespace: Operation not permitted, and 7 more)" in done.stdout
