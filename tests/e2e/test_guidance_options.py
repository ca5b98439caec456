"""`--instructions`, `--instruct` and `--examples`: what a real endpoint is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import rlm_wasm
from tests.support.policy_file import write_policy
from tests.support.provider_loopback import completion_body, http, loopback_server

EXAMPLES = '[count]\nquestion = "How many?"\nreply = "len it"\n'


@pytest.mark.guest
def test_an_endpoint_is_told_them_in_the_system_message(tmp_path: Path) -> None:
    said, shown = tmp_path / "said.txt", tmp_path / "shown.toml"
    said.write_text("Dates are day/month.\n")
    shown.write_text(EXAMPLES)
    with loopback_server() as server:
        server.behaviour = lambda seen, write: write(
            http("200 OK", completion_body("```repl\nFINAL(7)\n```"))
        )
        policy = write_policy(
            tmp_path / "p.toml", **{"providers.openai": {"base_url": server.url, "api_key_env": ""}}
        )
        ended = rlm_wasm(
            "run", "How?", "--policy", policy, "--instructions", said, "--instruct", "Be brief.",
            "--examples", shown,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (0, b"7\n"), ended.stderr
        (seen,) = server.requests
    messages = seen.body["messages"]
    assert isinstance(messages, list)
    system = messages[0]["content"]
    assert "\n<instructions>\nDates are day/month.\n\nBe brief.\n</instructions>\n" in system
    assert "\nQuestion 1: How many?\n\nReply 1:\nlen it\n" in system


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("x" * 20_000, ("--instructions",), "guidance.instructions_bytes_max"),
        ("\n", ("--instructions",), "instructions: there is nothing in it"),
        ("a = 1", ("--examples",), "'a' is no example"),
        ("a = ", ("--examples",), "no TOML"),
        ("", ("--examples",), "there are no examples in it"),
        (EXAMPLES.replace('"len it"', "5"), ("--examples",), "the reply of example 1: a str, not a int"),
        (EXAMPLES.replace("How", "H" * 40_000), ("--examples",), "guidance.examples_bytes_max"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anybody_is_asked(
    tmp_path: Path, text: str, options: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    ended = rlm_wasm("run", "How?", "--policy", "strict", *options, file, "--dry-run")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert said in ended.stderr.decode()


def test_standard_input_is_read_once_and_no_log_is_written_over_them(tmp_path: Path) -> None:
    twice = rlm_wasm(
        "run", "How?", "--policy", "strict", "--dry-run", "--instructions", "-", "--context", "-", stdin="x"
    )
    assert (twice.returncode, twice.stderr) == (2, b"error: standard input can be read once only\n")
    said = tmp_path / "said.txt"
    said.write_text("Be brief.")
    over = rlm_wasm("run", "How?", "--policy", "strict", "--instructions", said, "--events", said)
    assert over.returncode == 2
    assert said.read_text() == "Be brief."
