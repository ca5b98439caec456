"""`rlm-wasm run` from outside: the answer, the events, interruptions."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import ROOT, document, rlm_wasm, start
from tests.support.machine_grade import POLICY_HERE
from tests.support.policy_file import write_policy
from tests.support.runtime_facts import tree_model

pytestmark = pytest.mark.guest
NEEDLE = ROOT / "examples" / "needle"


def events_of(path: Path) -> list[dict[str, Any]]:
    """Return the events of a complete log: whole lines, numbered without a gap, begun and ended."""
    text = path.read_text()
    assert text.endswith("\n")
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert (events[0]["kind"], events[-1]["kind"]) == ("run_started", "run_ended")
    return events


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a scripted model and gives its name."""

    def write(*blocks: str) -> str:
        path = tmp_path / "model.toml"
        text = "".join(
            f"[[reply]]\nrole = 'root'\nturn = {turn}\ntext = '''\n```repl\n{block}\n```'''\n"
            for turn, block in enumerate(blocks, 1)
        )
        path.write_text(text + "[[reply]]\nrole = 'sub'\ntext = 'sub answer'\n")
        return f"script:{path}"

    return write


def test_the_example_is_answered(tmp_path: Path) -> None:
    haystack, events = tmp_path / "haystack.txt", tmp_path / "events.jsonl"
    with haystack.open("wb") as file:
        maker = [sys.executable, NEEDLE / "make_haystack.py", "--bytes", "500000", "--seed", "7"]
        subprocess.run(maker, stdout=file, check=True, timeout=60)
    ended = rlm_wasm(
        "run", "--policy", ROOT / "policies" / f"{POLICY_HERE}.toml",
        "--model", f"script:{NEEDLE / 'model.toml'}",
        "--context", haystack, "--events", events, "What is the magic number?",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    answer = ended.stdout.decode().strip()
    assert answer.isdigit()
    assert f"magic number is {answer}" in " ".join(haystack.read_text().split())
    assert ended.stderr == b""  # what is not locked down says so
    assert events.stat().st_mode & 0o777 == 0o600
    assert events_of(events)[-1]["data"]["outcome"] == "finished"


def test_json_is_one_document(model: Callable[..., str]) -> None:
    ended = rlm_wasm("run", "--policy", POLICY_HERE, "--model", model("FINAL(llm_query('x'))"), "--json", "?")
    found = document(ended)
    assert (ended.returncode, found["answer"], found["partial"]) == (0, "sub answer", False)
    assert found["spent"]["calls"] == 2


def test_a_context_from_standard_input(model: Callable[..., str]) -> None:
    ended = rlm_wasm(
        "run",
        "--policy",
        POLICY_HERE,
        "--model",
        model("FINAL(context[::-1])"),
        "--context",
        "-",
        "?",
        stdin="abc",
    )
    assert ended.stdout == b"cba\n"


def test_a_budget_ends_with_status_3_and_the_partial_answer(
    tmp_path: Path, model: Callable[..., str]
) -> None:
    policy = write_policy(tmp_path / "p.toml", budget={"iterations_max": 2})
    ended = rlm_wasm("run", "--policy", policy, "--model", model("1", "2", "3"), "--json", "?")
    assert ended.returncode == 3
    assert document(ended)["partial"] is True


def test_a_model_that_fails_is_status_1(model: Callable[..., str]) -> None:
    ended = rlm_wasm("run", "--policy", POLICY_HERE, "--model", model("1"), "--json", "?")
    assert ended.returncode == 1
    assert document(ended)["reason"].startswith("model_failed")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_gives_what_it_has(
    tmp_path: Path, model: Callable[..., str], how: signal.Signals
) -> None:
    policy = write_policy(
        tmp_path / "p.toml",
        cell={"fuel_max": 10**13, "wall_ms_max": 120_000},
        budget={"fuel_max": 10**14},
    )
    events = tmp_path / "events.jsonl"
    with start(
        "run", "--policy", policy, "--model", model("1", "while True: pass"), "--events", events,
        "--json", "?",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        # The second turn's answer is in the log: now the endless cell runs.
        while not events.exists() or events.read_text().count('"query_answered"') < 2:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(how)
        found = json.loads(process.stdout.read())
        process.stderr.read()
        assert process.wait(60) == 130
    assert (found["partial"], found["reason"]) == (True, "interrupted")
    assert found["answer"] is None  # there was code and nothing else
    assert events_of(events)[-1]["data"]["outcome"] == "interrupted"


@pytest.mark.threat("T-073")
def test_an_interrupted_run_takes_its_children_with_it(tmp_path: Path) -> None:
    policy = write_policy(
        tmp_path / "p.toml",
        cell={"fuel_max": 10**13, "wall_ms_max": 120_000},
        budget={"fuel_max": 10**14},
    )
    events = tmp_path / "events.jsonl"
    model = tree_model(tmp_path, ask="rlm_query_batched(['spin', 'spin'])", spin="while True: pass")
    with start(
        "run", "--policy", policy, "--model", model, "--events", events, "--json", "ask",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        # The root and both children have their code: now two endless cells run.
        while not events.exists() or events.read_text().count('"query_answered"') < 3:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        found = json.loads(process.stdout.read())
        process.stderr.read()
        assert process.wait(60) == 130
    assert (found["partial"], found["reason"]) == (True, "interrupted")
    assert found["answer"] is None
    ended = [event["data"]["status"] for event in events_of(events) if event["kind"] == "child_answered"]
    assert ended == ["cancelled", "cancelled"]


@pytest.mark.threat("T-025")
def test_events_on_a_full_disk_end_the_run_with_a_reason(model: Callable[..., str]) -> None:
    ended = rlm_wasm(
        "run",
        "--policy",
        POLICY_HERE,
        "--model",
        model("FINAL('unseen')"),
        "--events",
        "/dev/full",
        "--json",
        "?",
    )
    assert ended.returncode != 0
    assert "No space left on device" in document(ended)["reason"]


def test_events_that_cannot_be_opened_are_told_at_once(model: Callable[..., str]) -> None:
    ended = rlm_wasm("run", "--policy", POLICY_HERE, "--model", model("1"), "--events", "/none/e.jsonl", "?")
    assert ended.returncode == 2
    assert b"/none/e.jsonl" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["none.txt", "none/x.txt"])
def test_a_context_that_cannot_be_read_is_status_2(
    model: Callable[..., str], tmp_path: Path, name: str
) -> None:
    ended = rlm_wasm("run", "--policy", POLICY_HERE, "--model", model("1"), "--context", tmp_path / name, "?")
    assert ended.returncode == 2
    assert b"cannot read" in ended.stderr


def test_standard_input_is_one_context_only() -> None:
    ended = rlm_wasm(
        "run", "--policy", POLICY_HERE, "--model", "script:none.toml",
        "--context", "a=-", "--context", "b=-", "?", stdin="text",
    )  # fmt: skip
    assert ended.returncode == 2
    assert b"standard input" in ended.stderr


def test_a_named_input_before_one_without_a_name_does_not_leave_context_empty(
    tmp_path: Path, model: Callable[..., str]
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": 2}\n'))
    ended = rlm_wasm(
        "run", "--policy", POLICY_HERE, "--model", model("FINAL(repr((a, context)))"), "--json", "?",
        "--context", f"a={tmp_path / 'x.csv'}", "--context", tmp_path / "y.jsonl.gz",
    )  # fmt: skip
    found = document(ended)
    assert found["answer"] == "('a,b\\n1,2\\n', [{'n': 1}, {'n': 2}])"
    told = [(each["name"], each["kind"], each["files"][0]["packing"]) for each in found["inputs"]]
    assert told == [("a", "text", None), ("context", "jsonl", "gzip")]


@pytest.mark.parametrize(
    ("options", "data", "shown"),
    [
        ([], "grüße".encode("utf-16"), "grüße"),
        (["--encoding", "utf-8,cp1252"], "grüße".encode("cp1252"), "grüße"),
        (["--bytes"], b"\xff\x00", "b'\\xff\\x00'"),
    ],
)
def test_an_input_in_any_encoding_is_its_text(
    tmp_path: Path, model: Callable[..., str], options: list[str], data: bytes, shown: str
) -> None:
    (tmp_path / "x").write_bytes(data)
    spec = model("FINAL(context if isinstance(context, str) else repr(context))")
    ended = rlm_wasm(
        "run", "--policy", POLICY_HERE, "--model", spec, "--context", tmp_path / "x", *options, "?"
    )
    assert (ended.stdout.decode(), ended.stderr) == (shown + "\n", b"")
