"""`rlm-wasm ask` from outside, as somebody has their environment: against a real server on loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.policy.environment import KNOWN
from tests.support.command_line import ROOT, document, rlm_wasm
from tests.support.machine_grade import POLICY_HERE
from tests.support.provider_loopback import KEY, Loopback, Seen, Write, completion_body, http, loopback_server

pytestmark = pytest.mark.guest
CODE = "```repl\nprint(len(context))\nFINAL(llm_query('How long? ' + context[:5]))\n```"
# Where no process can be locked down, inline has to be asked for.
INLINE = ("--inline",) if POLICY_HERE == "standard" else ()
SAYS = "policy strict, but inline" if INLINE else f"policy {POLICY_HERE}"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no address of anybody in the environment."""
    for known in KNOWN:
        for name in (known.key, *known.base_url_env, *known.model_env):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(bare: None) -> Iterator[Loopback]:
    def answer(seen: Seen, write: Write) -> None:
        # What code asks is one message of a user.
        root = len(seen.body["messages"]) > 1  # type: ignore[arg-type]
        write(http("200 OK", completion_body(CODE if root else "five")))

    with loopback_server() as loopback:
        loopback.behaviour = answer
        yield loopback


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("hello world")
    return path


def test_a_question_about_a_file_with_what_the_environment_has(server: Loopback, note: Path) -> None:
    ended = rlm_wasm(
        "ask", *INLINE, "How long?", note,
        OPENAI_BASE_URL=server.url, OPENAI_API_KEY=KEY, OPENAI_MODEL="small",
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, b"five\n"), ended.stderr
    (line,) = ended.stderr.decode().splitlines()
    place = server.url.removeprefix("http://").removesuffix("/v1")
    assert line.startswith(SAYS)
    assert f" · openai:small at {place} (key: OPENAI_API_KEY) · " in line
    assert line.endswith(" · nothing to pay, at most 100 model calls, 15 minutes")
    assert KEY not in line
    assert {seen.body["model"] for seen in server.requests} == {"small"}
    assert {seen.headers["authorization"] for seen in server.requests} == {f"Bearer {KEY}"}
    assert all(seen.body["max_tokens"] for seen in server.requests)


def test_the_result_has_every_price_and_its_source(server: Loopback, note: Path) -> None:
    ended = rlm_wasm(
        "ask", *INLINE, "How long?", "--base-url", server.url, "--model", "big", "--sub-model", "small",
        "--price", "big=1.5,20", "--json", "-", stdin="hello world",
    )  # fmt: skip
    found = document(ended)
    assert (ended.returncode, found["answer"]) == (0, "five"), ended.stderr
    assert found["prices"] == {
        "openai:big": price(1_500_000, 20_000_000, "--price"),
        "openai:small": price(0, 0, "free: the endpoint is this machine"),
    }
    # 11 tokens in and 7 out of the one call that is not free, to the micro-dollar and rounded up.
    assert found["spent"]["cost_microdollars"] == 157
    assert "at most $5.00, 100 model calls" in ended.stderr.decode()
    assert "authorization" not in server.requests[0].headers


def price(asked: int, answered: int, source: str) -> dict[str, Any]:
    return {
        "input_microdollars_per_mtok": asked,
        "output_microdollars_per_mtok": answered,
        "source": source,
    }


def test_run_without_a_policy_is_the_same(server: Loopback, note: Path) -> None:
    ended = rlm_wasm(
        "run", *INLINE, "How long?", "--context", note, OPENAI_BASE_URL=server.url, OPENAI_MODEL="m"
    )
    assert (ended.returncode, ended.stdout) == (0, b"five\n"), ended.stderr
    assert ended.stderr.decode().startswith(SAYS)


def test_inline_is_taken_only_when_asked_for_and_says_so(server: Loopback, note: Path) -> None:
    given = ("How long?", note, "--base-url", server.url, "--model", "m")
    ended = rlm_wasm("ask", "--inline", *given)
    assert (ended.returncode, ended.stdout) == (0, b"five\n"), ended.stderr
    assert ended.stderr.decode().startswith("policy strict, but inline: the guest runs in this process")
    ended = rlm_wasm("ask", "--inline", "--policy", "strict", *given)
    assert ended.returncode == 2
    assert b"--inline is for when no policy is named" in ended.stderr


def test_a_named_policy_is_taken_with_another_endpoint_and_price(
    server: Loopback, note: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.toml"
    base = POLICY_HERE if not INLINE else "standard"
    path.write_text(f'extends = "{base}"\n[budget]\ncalls_max = 7\n[permits]\n')
    ended = rlm_wasm(
        "ask", "How long?", note, "--policy", path, "--base-url", server.url, "--key-env", "",
        "--price", "1,2", "--json",
    )  # fmt: skip
    found = document(ended)
    assert (ended.returncode, found["answer"]) == (0, "five"), ended.stderr
    assert set(map(str, found["prices"].values())) == {str(price(1_000_000, 2_000_000, "--price"))}
    assert "at most $" in ended.stderr.decode()
    assert ", 7 model calls" in ended.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ((), {}, "there is no model to ask: no key or address of a provider is set"),
        (("--model", "m"), {}, "no endpoint is known for the model 'm'"),
        (
            ("--base-url", "https://gateway.example/v1", "--model", "m"),
            {"OPENAI_API_KEY": KEY},
            "--price IN,OUT",
        ),
        (
            ("--base-url", "http://gateway.example/v1", "--model", "m"),
            {"OPENAI_API_KEY": KEY},
            "must be https",
        ),
        (("--base-url", "nonsense", "--model", "m", "--price", "1,2"), {}, "must be a URL"),
        (("--price", "1"), {"OPENAI_API_KEY": KEY}, "--price takes IN,OUT"),
        (("--price", "other=1,2"), {"OPENAI_API_KEY": KEY}, "which is not asked"),
        (("--price", "1,2", "--price", "3,4"), {"OPENAI_API_KEY": KEY}, "given twice"),
        (("--answers-from", "x.jsonl"), {}, "--answers-from needs --policy"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    bare: None, note: Path, arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    ended = rlm_wasm("ask", *INLINE, "How long?", note, *arguments, **environ)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert said in ended.stderr.decode()
    assert "policy.replace" not in ended.stderr.decode()
    assert KEY not in ended.stderr.decode()


def test_every_model_may_be_a_script(note: Path, bare: None) -> None:
    note.write_text("noise\nThe magic number is 7.\nnoise")
    script = f"script:{ROOT / 'examples' / 'needle' / 'model.toml'}"
    ended = rlm_wasm("ask", *INLINE, "What is the magic number?", note, "--model", script)
    assert (ended.returncode, ended.stdout.strip()) == (0, b"7"), ended.stderr
    assert re.search(r"· nothing to pay, at most 100 model calls, 15 minutes\n$", ended.stderr.decode())
    assert os.environ.get("OPENAI_API_KEY") is None


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        (folder / "sub" / f"{number}.txt").write_text(f"note {number}")
    (folder / ".env").write_text("KEY=1")
    return folder


def test_a_question_about_a_folder_and_about_what_wildcards_match(server: Loopback, docs: Path) -> None:
    environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "OPENAI_MODEL": "small"}
    code = "```repl\nimport os\nFINAL([len(context), context.get('sub/7.txt'), os.listdir('/inputs')])\n```"
    server.behaviour = lambda seen, write: write(http("200 OK", completion_body(code)))
    ended = rlm_wasm("ask", *INLINE, "?", docs, **environment)
    assert (ended.returncode, ended.stdout) == (0, b"[10, 'note 7', ['docs']]\n"), ended.stderr
    left_out, _ = ended.stderr.decode().splitlines()
    assert left_out == f"{docs}: 10 files taken; left out: .env: private (--all takes it)"
    first = str(server.requests[0].body["messages"])
    assert "- 'sub/7.txt': 6 characters" in first
    assert "KEY=1" not in first
    ended = rlm_wasm("ask", *INLINE, "?", f"{docs}/*/[78].txt", "--json", "--exclude", "8.*", **environment)
    found = document(ended)
    assert found["answer"] == "[1, 'note 7', ['docs']]", ended.stderr
    assert [file["path"] for file in found["inputs"][0]["files"]] == ["sub/7.txt"]
    assert (found["inputs"][0]["kind"], found["inputs"][0]["left_out"]) == ("folder", [])
