"""The rollouts example: four scripts from one prepared session, their rewards, and lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machine_grade import POLICY_HERE

PATH = Path(__file__).resolve().parents[3] / "examples" / "rollouts" / "rollouts.py"


@pytest.mark.guest
def test_it_tells_right_from_wrong_and_writes_it_down(guest: object, tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    command = [sys.executable, str(PATH), POLICY_HERE, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["info"]["model"], line["reward"]) for line in lines] == [
        ("right", 1.0),
        ("wrong", -0.1),
        ("mends", 0.9),
        ("never", -0.3),
    ]
    assert [line["partial"] for line in lines] == [False, False, False, True]
    assert lines[0]["answer"] == lines[2]["answer"] != lines[1]["answer"]
    assert "SyntaxError" in lines[2]["turns"][0]["observation"]
    assert ran.stdout.splitlines()[1] == "wrong: 'nobody', 2 turns, reward -0.1"
