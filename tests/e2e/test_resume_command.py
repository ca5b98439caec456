"""`rlm-wasm run --resume`: a process is killed in the middle of a run, and another one takes it up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import document, rlm_wasm, start
from tests.support.policy_file import write_policy
from tests.support.provider_loopback import Seen, Write, completion_body, http, loopback_server

pytestmark = pytest.mark.guest


def is_taken_up(log: Path) -> bool:
    """Look without a lock of our own, which would be in the way."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any(f":{log.stat().st_ino} " in line and " WRITE " in line for line in locks)


def test_a_run_whose_process_was_killed_is_taken_up_by_another_one(tmp_path: Path) -> None:
    """It dies while its second sub-query is under way: the first one is not asked again."""
    arrived = threading.Event()
    dying = threading.Event()
    asked: list[str] = []

    def behave(seen: Seen, write: Write) -> None:
        messages: Any = seen.body["messages"]
        if messages[0]["role"] == "system":
            code = "first = llm_query('a')\nfor n in range(2_000_000): pass\nFINAL(first + llm_query('b'))"
            text = f"```repl\n{code}\n```"
        else:
            text = messages[-1]["content"].upper()
            asked.append(text)
            if text == "B" and not dying.is_set():
                arrived.set()
                dying.wait(600)
                return
        write(http("200 OK", completion_body(text)))

    log, new = tmp_path / "events.jsonl", tmp_path / "new.jsonl"
    with loopback_server() as server:
        server.behaviour = behave
        policy = write_policy(
            tmp_path / "p.toml",
            events={"texts": True},
            sandbox={"entropy": "seeded", "clock": "virtual"},
            **{"providers.openai": {"base_url": server.url, "api_key_env": ""}},
        )
        run = start("run", "How?", "--policy", policy, "--events", log)
        assert arrived.wait(600)
        refused = rlm_wasm("run", "--resume", log, "--events", new)
        assert refused.returncode == 2
        assert b"a process writes this log, or takes it up: its run is not over" in refused.stderr
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        stopped = start("run", "--resume", log, "--events", new, stderr=subprocess.PIPE)
        while not is_taken_up(log):
            assert stopped.poll() is None
        stopped.send_signal(signal.SIGINT)
        _, said = stopped.communicate(timeout=600)
        assert stopped.returncode == 130, said
        assert b"does not come again" not in said
        if b"goes on behind" not in said:  # else the signal came when all was repeated
            assert not new.exists()
            assert asked == ["A", "B"]
        asked.clear()
        dying.set()
        ended = rlm_wasm("run", "--resume", log, "--events", new, "--json")
        assert ended.returncode == 0, ended.stderr
        assert document(ended)["answer"] == "AB"
        assert asked == ["B"]
        over = rlm_wasm("run", "--resume", new)
        assert over.returncode == 2
        assert b"this run is over (finished); there is nothing to take up" in over.stderr
    lines = [json.loads(line) for line in new.read_text().splitlines()]
    assert [line["data"]["in_flight"] for line in lines if line["kind"] == "run_resumed"] == [1]
    assert rlm_wasm("replay", new).stdout.startswith(b"the same: ")


def test_what_would_change_a_run_that_is_taken_up_is_refused(tmp_path: Path) -> None:
    for more, said in ((["why?"], b"takes no question"), (["--sub-model", "x:y"], b"takes no --sub-model")):
        refused = rlm_wasm("run", *more, "--resume", tmp_path / "none.jsonl")
        assert refused.returncode == 2
        assert said in refused.stderr
    assert b"there is no question" in rlm_wasm("run").stderr


def test_taking_up_reads_standard_input_once_and_empties_nothing_that_it_reads(tmp_path: Path) -> None:
    model, log = tmp_path / "model.toml", tmp_path / "events.jsonl"
    model.write_text("[[reply]]\nrole = 'root'\ntext = 'FINAL(1)'\n")
    policy = write_policy(
        tmp_path / "p.toml", events={"texts": True}, sandbox={"entropy": "seeded", "clock": "virtual"}
    )
    notes = tmp_path / "docs" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("word " * 20_000)
    run = ("run", "?", "--policy", policy, "--model", f"script:{model}", "--events", log)
    recorded = rlm_wasm(*run, "--context", notes.parent)
    assert recorded.returncode == 0, recorded.stderr
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    refused = rlm_wasm("run", "--resume", log, "--context", "a=-", "--context", "b=-", stdin="x")
    assert refused.returncode == 2
    assert b"standard input can be read once only" in refused.stderr
    for place in (notes.parent, tmp_path / "docs" / "*.txt"):
        refused = rlm_wasm("run", "--resume", log, "--context", place, "--events", notes)
        assert refused.returncode == 2
        assert b"is a file that this command reads" in refused.stderr
        assert notes.read_text() == "word " * 20_000
