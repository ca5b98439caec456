"""What the README shows runs, and says what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machine_grade import POLICY_HERE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.guest
@pytest.mark.parametrize(
    ("block", "printed"),
    [
        (0, "5000\n['a', 'any', 'of', 'size', 'text']\n"),
        (1, "([1, 2, 3], 'b')\n([1, 2], 'b')\n"),
        (2, "42\n"),
        (3, "7 finished 3\n"),
        (
            4,
            "Ann (2 times): food; Bob (2 times): weather\n{'children': 2, 'iterations': 3, 'calls': 5}\n",
        ),
        (5, "cell_ended completed\ncell_ended completed\nrun_ended finished\n7\n"),
    ],
)
def test_each_python_example_runs_as_it_stands(block, printed):
    # Where the machine refuses namespaces, under the policy that the README names for it.
    source = PYTHON_BLOCKS[block].replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


def test_the_readme_has_exactly_the_examples_tested_here():
    assert len(PYTHON_BLOCKS) == 6


def test_the_two_commands_of_the_first_screen_are_scripts_of_this_project():
    first_screen = README.split("## ", 1)[0]
    commands = re.findall(r"^    (sh scripts/\S+)$", first_screen, re.MULTILINE)
    assert commands == ["sh scripts/first-light.sh", "sh scripts/check.sh"]
    assert all((ROOT / command.removeprefix("sh ")).is_file() for command in commands)
    assert "scripts/check.sh" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_table_exists():
    done = subprocess.run(
        [sys.executable, "-m", "rlm_wasm.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    for command in re.findall(r"^\| `rlm-wasm (\w+)", README, re.MULTILINE):
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE), command
