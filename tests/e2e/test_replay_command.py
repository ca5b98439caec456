"""`rlm-wasm replay` from outside: the same, different, and what is no recording."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anyio
import pytest

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.policy.model import Policy
from tests.support.command_line import SECONDS_MAX, document, rlm_wasm, start
from tests.support.policy_file import write_policy

pytestmark = pytest.mark.guest


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """Return the log of a run with texts, and its context, which is too large for the log."""
    model, log, context = tmp_path / "model.toml", tmp_path / "events.jsonl", tmp_path / "context.txt"
    model.write_text(
        "[[reply]]\nrole = 'root'\ntext = '''\n```repl\n"
        "import random\nFINAL([len(context), random.random(), *llm_query_batched(['a', 'b'])])\n```'''\n"
        "[[reply]]\nrole = 'sub'\ntext = 'an answer'\n"
    )
    policy = write_policy(
        tmp_path / "p.toml", events={"texts": True}, sandbox={"entropy": "seeded", "seed": 11}
    )
    context.write_text("word " * 20_000)
    ended = rlm_wasm(
        "run", "--policy", policy, "--model", f"script:{model}", "--context", context, "--events", log, "?"
    )
    assert ended.returncode == 0, ended.stderr
    model.unlink()
    return log, context


def test_a_recorded_run_is_the_same_again(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    log, context = recorded
    again = tmp_path / "again.jsonl"
    ended = rlm_wasm("replay", log, "--context", context, "--events", again)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"the same: ")
    assert again.read_bytes() == log.read_bytes()
    found = document(rlm_wasm("replay", log, "--context", context, "--json"))
    assert (found["same"], found["difference"], found["ended"]) == (True, None, None)
    assert found["events"] == len(log.read_text().splitlines())


def test_no_file_that_is_read_is_emptied_for_events(recorded: tuple[Path, Path]) -> None:
    log, context = recorded
    before = log.read_bytes(), context.read_bytes()
    alias = log.with_name("alias.jsonl")
    alias.symlink_to(log)
    run = ("run", "--policy", "strict", "--model", "script:none.toml", "--answers-from", log)
    for arguments in (
        ("replay", log, "--context", context, "--events", alias),
        ("replay", log, "--context", context, "--events", context),
        (*run, "--events", log, "?"),
        (*run, "--context", f"a={context}", "--events", context, "?"),
    ):
        ended = rlm_wasm(*arguments)
        assert ended.returncode == 2, ended.stderr
        assert b"is a file that this command reads" in ended.stderr
        assert (log.read_bytes(), context.read_bytes()) == before


@pytest.mark.parametrize("place", ["docs", "docs/**/*.txt", "./docs/sub", "-"])
def test_no_file_of_a_folder_or_pattern_is_emptied_for_events(
    recorded: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    log, _ = recorded
    notes = tmp_path / "docs" / "sub" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("what nobody has written down twice")
    (tmp_path / "docs" / "left-out").write_bytes(b"\0")
    source = place if place == "-" else tmp_path / place
    run = ("run", "--policy", "strict", "--model", "script:none.toml", "--answers-from", log, "?")
    for arguments in (run, ("replay", log)):
        with notes.open("rb") as stdin:
            running = start(
                *arguments, "--context", source, "--events", notes, stdin=stdin, stderr=subprocess.PIPE
            )
            _, told = running.communicate(timeout=SECONDS_MAX)
        assert running.returncode == 2, told
        assert b"is a file that this command reads" in told
        assert notes.read_text() == "what nobody has written down twice"


@pytest.mark.threat("T-083")
def test_a_recording_that_was_changed_says_where_it_first_differs(recorded: tuple[Path, Path]) -> None:
    log, context = recorded
    changed = log.read_text().replace("llm_query_batched(['a', 'b'])", "llm_query_batched(['a', 'c'])")
    log.write_text(changed)
    ended = rlm_wasm("replay", log, "--context", context)
    assert ended.returncode == 1
    first, recorded_line, replayed_line = ended.stdout.decode().splitlines()
    assert first.startswith("differs at event ")
    assert "(query_received), data.texts[0]" in first
    assert recorded_line == "  recorded: 'b'"
    assert replayed_line == "  replayed: 'c'"
    found = document(rlm_wasm("replay", log, "--context", context, "--json"))
    assert found["difference"]["field"] == "data.texts[0]"
    assert (found["difference"]["recorded"], found["difference"]["replayed"]) == ("b", "c")


def test_an_input_that_is_missing_or_another_is_told(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    log, context = recorded
    ended = rlm_wasm("replay", log)
    assert ended.returncode == 2
    assert b"--context context=FILE" in ended.stderr
    other = tmp_path / "other.txt"
    other.write_bytes(context.read_bytes().replace(b"word", b"lord"))
    ended = rlm_wasm("replay", log, "--context", other)
    assert ended.returncode == 2
    assert b"not the one that was recorded" in ended.stderr
    other.write_bytes(b"\xff")
    ended = rlm_wasm("replay", log, "--context", other)
    assert ended.returncode == 2
    assert b"is not UTF-8 text" in ended.stderr


@pytest.mark.threat("T-082")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: "", b": is empty"),
        (lambda text: text[:-9], b"cut off"),
        (lambda text: "{}\n", b":1: is not an event"),
        (lambda text: text.replace('"texts":true', '"texts":false', 1), b"holds no texts"),
        (lambda text: text.replace('"run_id":"run_', '"run_id":"RUN_'), b":1: run_id"),
        (lambda text: text.replace("memory_bytes_max = ", "memory_bytes_max = -"), b"memory_bytes_max"),
    ],
)
def test_what_is_no_recording_is_status_2_and_one_error(
    recorded: tuple[Path, Path], change: object, what: bytes
) -> None:
    log, context = recorded
    log.write_text(change(log.read_text()))
    ended = rlm_wasm("replay", log, "--context", context)
    assert ended.returncode == 2
    assert what in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_run_that_draws_fresh_bytes_is_recorded_with_a_warning_at_its_replay(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    log, context = recorded
    text = log.read_text()
    policy = json.loads(text.splitlines()[1])["data"]["policy"]
    fresh = tmp_path / "fresh.toml"
    fresh.write_text(policy.replace('entropy = "seeded"', 'entropy = "fresh"'))
    ended = rlm_wasm("replay", log, "--context", context, "--policy", fresh)
    assert b"sandbox.entropy = 'fresh'" in ended.stderr
    assert ended.returncode == 1


def test_a_replay_without_a_guest_is_an_error_and_no_difference(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    log, context = recorded
    ended = rlm_wasm("replay", log, "--context", context, RLM_WASM_CACHE=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"no guest is built" in ended.stderr


def test_a_run_can_take_recorded_answers_for_a_models(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    """Another policy, the same prompts: the model's file is gone, and is not missed."""
    log, context = recorded
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    policy = tmp_path / "another.toml"
    policy.write_text(lines[1]["data"]["policy"].replace("texts = true", "texts = false"))
    arguments = ["run", "--policy", policy, "--answers-from", log, "--context", context, "--json"]
    ended = rlm_wasm(*arguments, "?")
    assert ended.returncode == 0, ended.stderr
    (answered,) = [line["data"] for line in lines if line["kind"] == "run_answered"]
    assert document(ended)["answer"] == answered["answer"]
    ended = rlm_wasm(*arguments, "another question")
    assert ended.returncode == 1
    assert "never saw this prompt" in document(ended)["reason"]


def test_a_run_that_began_from_an_image_is_given_the_image_again(tmp_path: Path) -> None:
    model, log, saved = tmp_path / "model.toml", tmp_path / "events.jsonl", tmp_path / "saved.image"
    foreign = tmp_path / "foreign.image"
    model.write_text("[[reply]]\nrole = 'root'\ntext = '''\n```repl\nFINAL(prepared)\n```'''\n")
    policy = Policy.load(
        write_policy(
            tmp_path / "p.toml",
            events={"texts": True},
            sandbox={"entropy": "seeded", "isolation": "inline", "require_lockdown": False},
        )
    )

    async def record() -> None:
        async with Sandbox(policy) as box, await box.session(tenant="t") as session:
            await session.exec("prepared = 'prepared'")
            image = await session.snapshot()
            image.save(saved, key=bytes(32))
            image.save(foreign, key=bytes(32), tenant="another")
            async with Runtime(policy, model=f"script:{model}") as runtime:
                with JsonlSink(log) as sink:
                    ran = await runtime.ask("?", snapshot=image, sinks=[sink.write], tenant="t")
                assert ran.answer == "prepared"

    anyio.run(record)
    given = ("--snapshot", saved, "--snapshot-key-env", "THE_KEY")
    again = tmp_path / "again.jsonl"
    ended = rlm_wasm("replay", log, *given, "--events", again, THE_KEY="00" * 32)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert again.read_bytes() == log.read_bytes()
    for arguments, key, told in (
        ((), "", b"--snapshot FILE"),
        (given[:2], "", b"name an environment variable"),
        (("--snapshot", foreign, *given[2:]), "00" * 32, b"belongs to another tenant"),
        (given, "11" * 32, b"this is not its key"),
        (("--snapshot", tmp_path / "none", *given[2:]), "00" * 32, b"does not exist"),
    ):
        ended = rlm_wasm("replay", log, *arguments, "--events", again, THE_KEY=key)
        assert ended.returncode == 2, ended
        assert told in ended.stderr
        assert b"Traceback" not in ended.stderr
    assert again.read_bytes() == log.read_bytes(), "a refusal empties no file"
