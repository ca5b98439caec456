"""One scripted model behind a real endpoint, one answer: by every way that a program may take to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import rlm_wasm
from tests.support.machine_grade import POLICY_HERE, strict_here
from tests.support.provider_loopback import Loopback, completion_body, http, loopback_server

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
]
QUESTION = "Which animals, loudly?"
TEXT = "\n".join(f"row {number}: {animal}" for number, animal in enumerate(["cat", "élan", "newt"]))
ANSWER = "CAT! ÉLAN! NEWT!"
# Looks, fails, asks in parallel and one by one, and answers out of variables that it had before the error.
TURNS = (
    "rows = context.split('\\n')\nprint(len(rows), rows[0])",
    "names = [row.partition(': ')[2] for row in rows]\n1 / 0",
    "loud = llm_query_batched(names[:2]) + [llm_query(names[2])]\nprint(loud)",
    "found = ' '.join(loud)",
)


class Model:
    """The script: the root's code by its turn, whoever asks; anything else it says louder."""

    def __init__(self, reply: Callable[[str, str], str], finish: str, is_root: Callable[[Any], bool]) -> None:
        self.asked: list[str] = []
        self._turn = 0
        self._reply, self._finish, self._is_root = reply, finish, is_root

    def __call__(self, seen: Any, write: Callable[[bytes], Any]) -> None:
        messages = seen.body["messages"]
        said = messages[-1]["content"]
        if self._is_root(messages):
            code = TURNS[self._turn] + (f"\n{self._finish}" if self._turn == len(TURNS) - 1 else "")
            self._turn += 1
            said = self._reply("Go on.", code)
        else:
            self.asked.append(said)
            said = f"{said.upper()}!"
        write(http("200 OK", completion_body(said)))


def official() -> Model:
    return Model(
        lambda words, code: f"{words}\n```repl\n{code}\n```",
        "answer['content'] = found\nanswer['ready'] = True",
        lambda messages: messages[0]["role"] == "system",
    )


def of_dspy() -> Model:
    return Model(
        lambda words, code: (
            f"[[ ## reasoning ## ]]\n{words}\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n"
            "[[ ## completed ## ]]"
        ),
        "SUBMIT(answer=found)",
        lambda messages: "[[ ## code ## ]]" in messages[0]["content"],
    )


def by_the_command_line(server: Loopback, folder: Path) -> str:
    text = folder / "rows.txt"
    text.write_text(TEXT, encoding="utf-8")
    ended = rlm_wasm(
        "run", "--policy", POLICY_HERE, "--model", "openai:small", "--base-url", server.url,
        "--key-env", "", "--context", text, QUESTION,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.decode().strip()


def by_compat(server: Loopback, folder: Path) -> str:
    from rlm_wasm.compat import RLM

    return RLM(backend_kwargs=_kwargs(server), policy=strict_here()).completion(TEXT, QUESTION).response


def by_the_official_library(server: Loopback, folder: Path) -> str:
    from rlm import RLM

    from rlm_wasm.integrations.rlms import rlms_policy, sandboxed

    with sandboxed(rlms_policy(strict_here())):
        return str(RLM(backend_kwargs=_kwargs(server)).completion(TEXT, QUESTION).response)


def by_dspy(server: Loopback, folder: Path) -> str:
    import dspy

    from rlm_wasm.integrations.dspy import SandboxInterpreters, dspy_policy

    model = dspy.LM("openai/small", api_base=server.url, api_key="none", cache=False)
    with SandboxInterpreters(dspy_policy(strict_here())) as interpreters:
        with dspy.context(lm=model, adapter=dspy.ChatAdapter()):
            rlm = dspy.RLM("context, query -> answer", interpreter_factory=interpreters)
            return str(rlm(context=TEXT, query=QUESTION).answer)


def _kwargs(server: Loopback) -> dict[str, Any]:
    return {"model_name": "small", "base_url": server.url, "api_key": "none"}


def needs(package: str, name: str) -> Any:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"the extra is not installed: pip install {name}"
    )


WAYS = [
    pytest.param(by_the_command_line, official, id="rlm-wasm run"),
    pytest.param(by_compat, official, id="compat.RLM"),
    pytest.param(by_the_official_library, official, id="rlms", marks=needs("rlm", "rlms")),
    pytest.param(by_dspy, of_dspy, id="dspy.RLM", marks=needs("dspy", "dspy")),
]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


@pytest.mark.parametrize(("way", "script"), WAYS)
def test_one_scripted_model_has_one_answer_by_every_way(
    way: Callable[[Loopback, Path], str], script: Callable[[], Model], server: Loopback, tmp_path: Path
) -> None:
    server.behaviour = model = script()
    assert way(server, tmp_path) == ANSWER
    assert sorted(model.asked) == sorted(["cat", "élan", "newt"])
    # As many turns as the script has: none was asked again.
    assert len(server.requests) == len(TURNS) + 3
