"""What docs/steering.md shows runs, and says what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm import Policy
from tests.support.command_line import ROOT, rlm_wasm
from tests.support.machine_grade import POLICY_HERE

PAGE = (ROOT / "docs/steering.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PRINTED = (
    "500000 100 900000 ('budget.cost_microdollars_max',)\n",
    "7\n",
    "refused\nThe block was refused and did not run: look at the first line alone\n",
)


def test_the_page_has_exactly_the_examples_tested_here() -> None:
    assert len(BLOCKS) == len(PRINTED)


@pytest.mark.guest
@pytest.mark.parametrize("block", range(len(PRINTED)))
def test_each_example_runs_as_it_stands(block: int) -> None:
    # Where the machine refuses namespaces, under the policy that the README names for it.
    source = BLOCKS[block].replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED[block]


def test_the_policy_that_the_page_shows_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?\n\"\"\"\n)```\n\nA question", PAGE, re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    guidance = Policy.load(path).own_guidance()
    assert guidance.instructions.startswith("Dates are day/month/year.")
    assert [each.question for each in guidance.examples] == ["How many orders are late?"]


def test_the_dry_run_that_the_page_shows_is_what_comes() -> None:
    told = rlm_wasm(
        "run", "Who spoke most?", "--policy", "strict", "--context", ROOT / "README.md", "--dry-run"
    )
    lines = PAGE.split("## Own", 1)[0].splitlines()
    shown = [line.removeprefix("    ") for line in lines if line.startswith("    ")][1:]
    came = (told.stderr + told.stdout).decode().replace(str(ROOT / "README.md"), "report.txt")
    assert came.splitlines() == [line for line in shown if line]
