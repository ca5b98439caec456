"""`--dry-run`: what a question may cost, without a key and without anybody asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import ROOT, document, rlm_wasm
from tests.support.machine_grade import POLICY_HERE
from tests.support.policy_file import write_policy
from tests.support.provider_loopback import loopback_server


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("some words")
    return path


def test_a_dry_run_asks_nobody_and_needs_no_key_and_writes_nothing(tmp_path: Path, note: Path) -> None:
    log, out = tmp_path / "e.jsonl", tmp_path / "out"
    with loopback_server() as server:
        policy = write_policy(
            tmp_path / "p.toml",
            **{"providers.openai": {"base_url": server.url, "api_key_env": "NO_SUCH_KEY"}},
        )
        options = ("--policy", policy, "--context", note, "--events", log, "--out", out, "-v", "--dry-run")
        told = rlm_wasm("run", "How?", *options)
        found = document(rlm_wasm("run", "How?", *options, "--json"))
        assert server.requests == []
    assert told.returncode == 0, told.stderr
    assert not log.exists()
    assert not out.exists()
    text = told.stdout.decode()
    for line in ("input context: text, from ", "$4.500100", "budget.calls_max", "900 s", "nobody was asked"):
        assert line in text, text
    assert "(key: NO_SUCH_KEY) · at most $4.50, 100 model calls" in told.stderr.decode()
    assert found["dry_run"] is True
    assert found["at_most"]["cost_microdollars"] == 4_500_100
    assert found["at_most"]["wall_ms"] == 900_000
    assert found["bounded_by"]["wall_ms"] == ["run.wall_ms_max"]
    assert found["models"]["root"] == "openai:gpt-5"
    assert found["prices"]["openai:gpt-5"]["source"] == "policy"
    assert [item["name"] for item in found["inputs"]] == ["context"]


def test_what_would_be_refused_before_anybody_is_asked_is_refused_dry_too(tmp_path: Path, note: Path) -> None:
    policy = ("--policy", "strict", "--dry-run")
    missing = rlm_wasm("run", "How?", *policy, "--context", tmp_path / "none")
    assert (missing.returncode, missing.stdout) == (2, b"")
    empty = rlm_wasm("run", " ", *policy)
    assert (empty.returncode, empty.stderr) == (2, b"error: the question is empty\n")
    overwritten = rlm_wasm("ask", "How?", note, *policy, "--events", note)
    assert overwritten.returncode == 2
    assert note.read_text() == "some words"
    unpriced = rlm_wasm("run", "How?", *policy, "--model", "openai:nobodys-model")
    assert unpriced.returncode == 2
    assert b"has no price" in unpriced.stderr


def test_a_run_that_is_taken_up_is_not_run_dry(tmp_path: Path) -> None:
    ended = rlm_wasm("run", "--resume", tmp_path / "e.jsonl", "--dry-run")
    assert ended.returncode == 2
    assert b"takes no --dry-run" in ended.stderr


@pytest.mark.guest
def test_a_run_stays_within_what_its_dry_run_says(tmp_path: Path) -> None:
    asked = (
        "run", "Who spoke most on each day?", "--policy", POLICY_HERE, "--json",
        "--model", f"script:{ROOT / 'examples/recursion/model.toml'}",
        "--context", tmp_path / "days.txt",
    )  # fmt: skip
    (tmp_path / "days.txt").write_text(
        "Ann: Soup again.\nBob: Yes.\nAnn: With bread.\n\nBob: The rain!\nBob: And the wind.\nAnn: Tea?"
    )
    bound = document(rlm_wasm(*asked, "--dry-run"))["at_most"]
    result = document(rlm_wasm(*asked))
    used = {**result["spent"], "wall_ms": result["wall_ms"]}
    assert used["calls"] == 5
    assert used.keys() == bound.keys()
    assert all(used[name] <= most for name, most in bound.items())
