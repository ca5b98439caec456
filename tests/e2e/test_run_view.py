"""`-v`: each turn's reply, code and observation on stderr, and nothing in them that a terminal would obey."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command_line import document, rlm_wasm, start
from tests.support.policy_file import write_policy
from tests.support.terminal import open_terminal, written

pytestmark = pytest.mark.guest
REPLY = "Looking.\x1b]0;evil\x07\n```repl\nprint('seen', chr(27) + '[2J', chr(0x202e), end='!')\n```"
TOML_REPLY = REPLY.replace("\x1b", "\\u001b").replace("\x07", "\\u0007").replace("\n", "\\n")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str | Path]:
    model = tmp_path / "model.toml"
    model.write_text(
        f'[[reply]]\nrole = "root"\nturn = 1\ntext = "{TOML_REPLY}"\n'
        "[[reply]]\nrole = 'root'\nturn = 2\ntext = '''\n```repl\nFINAL('the answer')\n```'''\n"
    )
    return ["run", "?", "--policy", write_policy(tmp_path / "p.toml"), "--model", f"script:{model}"]


LINES = [
    "── turn 1",
    "  Looking.\ufffd]0;evil\ufffd",
    "── turn 1, code",
    "> print('seen', chr(27) + '[2J', chr(0x202e), end='!')",
    "── turn 1, observation",
    "< seen \ufffd[2J \ufffd!",
    "── turn 2, code",
    "> FINAL('the answer')",
]


@pytest.mark.threat("T-217")
def test_where_there_is_no_terminal_they_are_plain_lines(arguments: list[str | Path]) -> None:
    ended = rlm_wasm(*arguments, "-v")
    assert (ended.returncode, ended.stdout) == (0, b"the answer\n"), ended.stderr
    assert b"\x1b" not in ended.stderr
    shown = ended.stderr.decode().splitlines()
    assert [line for line in shown if line in LINES] == LINES, shown
    assert rlm_wasm(*arguments).stderr == b""


@pytest.mark.threat("T-217")
def test_a_terminal_gets_no_sequence_of_a_models_or_guests(arguments: list[str | Path]) -> None:
    ours, theirs = open_terminal()
    with start(*arguments, "-v", stderr=theirs, stdout=theirs) as running:
        os.close(theirs)
        shown = written(ours)
    assert running.returncode == 0
    text = shown.decode()
    for line in LINES:
        assert line in text
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "the answer" in text


def test_the_document_has_the_transcript(arguments: list[str | Path]) -> None:
    first, second = document(rlm_wasm(*arguments, "--json"))["transcript"]
    assert (first["number"], first["reply"]) == (1, REPLY)
    (cell,) = first["cells"]
    assert cell["code"].startswith("print('seen'")
    assert cell["observation"].startswith("seen \x1b[2J \u202e!")
    assert (cell["outcome"], cell["fuel_used"] > 0) == ("completed", True)
    assert [cell["code"] for cell in second["cells"]] == ["FINAL('the answer')"]
