"""The needle example: its haystack is exact, and its scripted model's code really searches it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from rlm_wasm.providers.base import Query
from rlm_wasm.providers.script import open_script
from rlm_wasm.scheduler.messages import Message

NEEDLE_FOLDER = Path(__file__).resolve().parents[3] / "examples" / "needle"
NEEDLE_LINE = re.compile(rb"^The magic number is (\d{7})\.$", re.MULTILINE)
SEED_7_SHA256 = "e388067a8bc514e90e75a775af714add8ff7b71fedae7bc97403fa1c88948114"


def haystack(size: int, seed: int) -> bytes:
    command = [
        sys.executable,
        str(NEEDLE_FOLDER / "make_haystack.py"),
        "--bytes",
        str(size),
        "--seed",
        str(seed),
    ]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("size", [29, 30, 31, 100, 4096, 999_999, 3_000_000])
@pytest.mark.parametrize("seed", [0, 7])
def test_haystack_has_exactly_the_bytes_asked_for_and_one_needle(size, seed):
    text = haystack(size, seed)
    assert len(text) == size
    assert text.endswith(b"\n")
    assert len(NEEDLE_LINE.findall(text)) == 1
    assert text.lower().count(b"magic") == 1


def test_seed_decides_text_number_and_place():
    texts = [haystack(200_000, seed) for seed in range(8)]
    found = [NEEDLE_LINE.search(text) for text in texts]
    assert len({match[1] for match in found}) == 8
    assert len({match.start() for match in found}) == 8
    assert haystack(200_000, 3) == texts[3]


def test_seed_7_is_the_same_on_every_python_version():
    """Whoever follows the README gets the number that it shows."""
    assert hashlib.sha256(haystack(1_000_000, 7)).hexdigest() == SEED_7_SHA256


def test_haystack_looks_like_text():
    lines = haystack(100_000, 1).decode("ascii").splitlines()
    assert len(set(lines)) == len(lines)
    assert max(map(len, lines)) < 150


@pytest.mark.parametrize("size", ["28", "0", "-1", "many"])
def test_size_that_cannot_hold_the_needle_is_a_usage_error(size):
    command = [sys.executable, str(NEEDLE_FOLDER / "make_haystack.py"), f"--bytes={size}", "--seed=1"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--bytes" in result.stderr


def test_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} {NEEDLE_FOLDER / 'make_haystack.py'} --bytes 5000000 --seed 1 | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True)
    assert (result.returncode, len(result.stdout), result.stderr) == (0, 10, b"")


def root_code(turn: int) -> str:
    """Return the one ```repl block that the scripted root model writes on its `turn`."""
    past = [Message("assistant", "code"), Message("user", "REPL output:")] * (turn - 1)
    messages = (Message("system", "s"), Message("user", "What is the magic number?"), *past)
    [code] = re.findall(r"```repl\s*\n(.*?)\n```", _ask(messages), re.DOTALL)
    return code


def _ask(messages: tuple[Message, ...]) -> str:
    provider = open_script(NEEDLE_FOLDER / "model.toml")
    return anyio.run(provider.complete, Query("m", messages, 1000, 1000)).text


class Guest:
    """The names that a cell of a real session has, with the scripted sub-model behind llm_query."""

    def __init__(self, context: str) -> None:
        self.prompts: list[str] = []
        self.names = {"context": context, "answer": {"content": "", "ready": False}, "llm_query": self._query}

    def _query(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return _ask((Message("user", prompt),))

    def run(self, code: str) -> dict[str, object]:
        exec(code, self.names)  # our own example's code
        return self.names["answer"]


def test_first_turn_looks_and_does_not_answer(capsys):
    assert Guest("some text").run(root_code(1)) == {"content": "", "ready": False}
    assert capsys.readouterr().out == "str 9\nsome text\n"


@pytest.mark.parametrize("turn", [2, 3, 10])
def test_later_turns_find_the_number_and_finish(turn):
    text = haystack(3_000_000, 7)
    guest = Guest(text.decode())
    answer = guest.run(root_code(turn))
    assert answer == {"content": NEEDLE_LINE.search(text)[1].decode(), "ready": True}
    assert len(guest.prompts) == 1
    assert len(guest.prompts[0]) < 1000, "only the passage goes to the sub-model, never the context"


@pytest.mark.parametrize("shift", range(-30, 31, 5))
def test_needle_on_the_border_of_two_chunks_is_found_once(shift):
    line = "The magic number is 1234567.\n"
    guest = Guest("x" * (1_000_000 + shift) + "\n" + line + "y" * 1_500_000)
    assert guest.run(root_code(2)) == {"content": "1234567", "ready": True}
    assert guest.prompts[0].count(line) == 1


def test_context_without_the_number_gets_an_answer_that_says_so():
    assert Guest("nothing here").run(root_code(2)) == {"content": "The passages do not say.", "ready": True}
