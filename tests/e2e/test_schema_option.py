"""`--schema`: JSON that fits on stdout, from a real worker; what is no schema is refused; its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, rlm_wasm
from tests.support.machine_grade import POLICY_HERE

SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}, "line": {"type": "string"}},
    "required": ["number"],
}
PAGE = (ROOT / "docs/typed-answers.md").read_text(encoding="utf-8")
MODEL = ("--model", f"script:{ROOT / 'examples/typed/model.toml'}")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA, indent=4))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("noise\nThe magic number is 7.\n")
    return path


@pytest.mark.guest
def test_the_answer_is_json_that_fits(schema: Path, text: Path) -> None:
    given = ("ask", "Which?", text, "--policy", POLICY_HERE, *MODEL, "--schema", schema)
    ended = rlm_wasm(*given)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {"number": 7, "line": "The magic number is 7."}
    shown = rlm_wasm(*given, "--json", "-v")
    assert "── the answer does not fit the schema\n" in shown.stderr.decode()
    document = json.loads(shown.stdout)
    assert document["value"] == {"number": 7, "line": "The magic number is 7."}
    assert (document["checked"], document["problems"]) == (True, [])
    assert len(document["transcript"]) == 2


@pytest.mark.guest
def test_a_partial_answer_says_that_it_does_not_fit(schema: Path, text: Path, tmp_path: Path) -> None:
    policy = tmp_path / "one.toml"
    policy.write_text(f'extends = "{POLICY_HERE}"\n[run]\nturns_max = 1\nreserve_percent = 0\n')
    ended = rlm_wasm("ask", "Which?", text, "--policy", policy, *MODEL, "--schema", schema)
    assert ended.returncode != 0
    assert (
        b"its last answer does not fit the schema: $.number: a string, where integer is wanted"
        in ended.stderr
    )
    assert json.loads(ended.stdout)["number"] == "seven"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{", "no JSON"),
        ("[]", "a JSON Schema is an object"),
        ('{"type": "strnig"}', "no JSON Schema: $.type"),
        ('{"$ref": "https://example.com/x"}', "nothing beside the schema itself is read"),
        ("{}", "says nothing of the answer"),
        ('{"type": "string", "description": "' + "x" * 20_000 + '"}', "guidance.instructions_bytes_max"),
        ("[" * 100_000, "no JSON"),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_no_schema_is_refused_before_anything_is_asked(
    tmp_path: Path, written: str, words: str
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(written)
    ended = rlm_wasm("run", "Which?", "--policy", "strict", "--dry-run", "--schema", path)
    assert ended.returncode == 2
    assert words in ended.stderr.decode()
    assert "schema.json" in ended.stderr.decode()


def test_the_log_is_not_written_over_the_schema(schema: Path) -> None:
    ended = rlm_wasm(
        "run", "Which?", "--policy", "strict", "--dry-run", "--schema", schema, "--events", schema
    )
    assert ended.returncode == 2
    assert json.loads(schema.read_text()) == SCHEMA


@pytest.mark.guest
def test_what_the_page_shows_runs_and_prints_what_it_says() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    source = block.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = re.search(r"^prints\n\n((?:    .*\n)+)", PAGE, re.MULTILINE)
    assert printed is not None
    assert done.stdout == re.sub(r"^    ", "", printed[1], flags=re.MULTILINE)
