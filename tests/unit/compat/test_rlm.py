"""The official library's class over our runtime: one real completion, its log, and how others end."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.compat import RLM, ErrorThresholdExceededError, RLMLogger, TokenLimitExceededError
from rlm_wasm.errors import UsageError
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import Loopback, completion_body, http, loopback_server

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]
KEY = "sk-live-0123456789abcdefXYZ"
PAGE = Path(__file__).parents[3] / "docs" / "compat.md"
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("rlm") is None, reason="the library is not installed: pip install rlms"
)


def replies(server: Loopback, root: list[str], sub: Callable[[str], str] = str.upper) -> None:
    """Have the endpoint answer the root and its children in order, and queries of code by what they ask."""
    left = iter(root)

    def answer(seen: Any, write: Callable[[bytes], Any]) -> None:
        messages = seen.body["messages"]
        is_root = messages[0]["role"] == "system"
        write(http("200 OK", completion_body(next(left) if is_root else sub(messages[-1]["content"]))))

    server.behaviour = answer


def cell(code: str) -> str:
    return f"Look.\n```repl\n{code}\n```"


def rlm_at(server: Loopback, **more: Any) -> RLM:
    server_kwargs = {"model_name": "small", "base_url": server.url, "api_key": KEY}
    policy = strict_here().replace(tools={"allow": ["*"]})
    return RLM(**({"backend": "openai", "backend_kwargs": server_kwargs, "policy": policy} | more))


def fails() -> None:
    raise ValueError("told")


@dataclass
class Told:
    """One completion with all that it told, and what its server saw."""

    made: Any
    log: RLMLogger
    requests: list[Any]
    calls: list[tuple[object, ...]] = field(default_factory=list)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(str(self.log.log_file_path)).read_text().splitlines()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, guest: object) -> Told:
    calls: list[tuple[object, ...]] = []
    log = RLMLogger(tmp_path_factory.mktemp("logs"), "test")
    with loopback_server() as server:
        replies(
            server,
            [
                cell("print(len(context), limit, made_before)\nkept = 1"),
                cell("print(shout('x'))\nparts = llm_query_batched(['a', 'b'])\nfails()"),
                cell("got = rlm_query('What platform?')\nanswer['content'] = parts + [got]")
                + "\n```repl\nanswer['ready'] = True\n```",
                cell("import sys\nanswer['content'] = sys.platform + context\nanswer['ready'] = True"),
            ],
        )
        rlm = rlm_at(
            server,
            max_depth=2,
            logger=log,
            verbose=True,
            environment_kwargs={"setup_code": "made_before = 3"},
            custom_tools={
                "shout": {"tool": str.upper, "description": "louder"},
                "fails": fails,
                "limit": {"tool": 7, "description": "how many there may be"},
            },
            custom_system_prompt="Be brief.",
            on_subcall_start=lambda *facts: calls.append(("start", *facts)),
            on_subcall_complete=lambda *facts: calls.append(("complete", *facts)),
            on_iteration_start=lambda *facts: calls.append(("iteration", *facts)),
            on_iteration_complete=lambda *facts: 1 / 0,
        )
        made = rlm.completion("x" * 300_000, root_prompt="What is it?")
        return Told(made, log, list(server.requests), calls)


def test_a_completion_has_the_attributes_of_the_librarys(told: Told) -> None:
    made = told.made
    assert made.response == "['A', 'B', 'wasiWhat platform?']"
    assert (made.root_model, len(made.prompt), made.error) == ("small", 300_000, None)
    assert made.execution_time > 0
    usage = made.usage_summary.to_dict()["model_usage_summaries"]
    assert usage == {
        "small": {
            "total_calls": 6,
            "total_input_tokens": 66,
            "total_output_tokens": 42,
            "total_cost": 0.0,
        }
    }
    assert made.usage_summary.total_input_tokens == made.run.spent["input_tokens"]
    assert set(made.to_dict()) == {
        *("root_model", "prompt", "response", "usage_summary", "execution_time", "metadata")
    }


def test_models_are_told_the_callers_words_and_the_values_that_are_there(told: Told) -> None:
    roots = [seen.body["messages"] for seen in told.requests if seen.body["messages"][0]["role"] == "system"]
    for messages in roots:  # the child's too
        assert "Be brief." in messages[0]["content"]
        assert "- limit: how many there may be" in messages[0]["content"]
    assert any("300000 7 3" in message["content"] for message in roots[1])
    assert any("ToolError: ValueError: told" in message["content"] for message in roots[2])


def test_callbacks_are_told_and_what_they_raise_ends_nothing(told: Told) -> None:
    assert [each for each in told.calls if each[0] == "iteration"] == [
        ("iteration", 0, number) for number in (1, 2, 3)
    ]
    [start] = [each for each in told.calls if each[0] == "start"]
    assert start == ("start", 1, "small", "What platform?")
    [complete] = [each for each in told.calls if each[0] == "complete"]
    assert (complete[:3], complete[4]) == (("complete", 1, "small"), None)


def test_the_log_is_a_line_of_metadata_and_one_for_each_turn(told: Told) -> None:
    first, *turns = told.lines
    assert list(first) == [
        *("type", "timestamp", "root_model", "max_depth", "max_iterations", "backend", "backend_kwargs"),
        *("environment_type", "environment_kwargs", "other_backends"),
    ]
    assert (first["type"], first["root_model"], first["environment_type"]) == ("metadata", "small", "local")
    assert [(turn["type"], turn["iteration"]) for turn in turns] == [("iteration", n) for n in (1, 2, 3)]
    for turn in turns:
        assert list(turn) == [
            *("type", "iteration", "timestamp", "prompt", "response", "code_blocks", "final_answer"),
            "iteration_time",
        ]
        assert turn["iteration_time"] > 0
        for block in turn["code_blocks"]:
            assert list(block) == ["code", "result"]
            assert list(block["result"]) == [
                *("stdout", "stderr", "locals", "execution_time", "rlm_calls", "final_answer")
            ]


def test_the_log_has_what_happened(told: Told) -> None:
    one, two, three = told.lines[1:]
    assert one["prompt"][0]["role"] == "system"
    assert any("What is it?" in message["content"] for message in one["prompt"])
    assert len(one["prompt"]) < len(two["prompt"]) < len(three["prompt"])
    [block] = one["code_blocks"]
    assert block["code"].startswith("print(len(context)")
    assert (block["result"]["stdout"].strip(), block["result"]["stderr"]) == ("300000 7 3", "")
    assert block["result"]["locals"]["kept"] == ""
    [block] = two["code_blocks"]
    assert block["result"]["stdout"] == "X\n"
    assert "ToolError: ValueError: told" in block["result"]["stderr"]
    calls = block["result"]["rlm_calls"]
    assert [(call["prompt"], call["response"]) for call in calls] == [("a", "A"), ("b", "B")]
    assert set(calls[0]) == {"root_model", "prompt", "response", "usage_summary", "execution_time"}
    asked, finished = three["code_blocks"]
    [child] = asked["result"]["rlm_calls"]
    assert (child["prompt"], child["response"]) == ("What platform?", "wasiWhat platform?")
    [turn] = child["metadata"]["iterations"]
    assert "sys.platform" in turn["response"]
    assert finished["result"]["final_answer"] == three["final_answer"] == told.made.response
    assert [one["final_answer"], two["final_answer"]] == [None, None]
    assert told.made.metadata["iterations"] == told.lines[1:]


def test_a_log_is_its_owners_alone_and_has_no_key(told: Told) -> None:
    path = Path(str(told.log.log_file_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY not in path.read_text()
    assert re.fullmatch(r"test_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{8}\.jsonl", path.name)


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_the_librarys_own_types_read_the_log(told: Told) -> None:
    from rlm.core import types

    first, *turns = told.lines
    known = {name: first[name] for name in first if name not in ("type", "timestamp")}
    assert types.RLMMetadata(**known).to_dict() == known
    for turn in turns:
        blocks = []
        for block in turn["code_blocks"]:
            result = dict(block["result"])
            calls = [types.RLMChatCompletion.from_dict(call) for call in result.pop("rlm_calls")]
            blocks.append(types.CodeBlock(block["code"], types.REPLResult(**result, rlm_calls=calls)))
        made = types.RLMIteration(
            turn["prompt"], turn["response"], blocks, turn["final_answer"], turn["iteration_time"]
        )
        kept = {name: turn[name] for name in turn if name not in ("type", "timestamp", "iteration")}
        assert made.to_dict() == kept
    assert types.RLMChatCompletion.from_dict(told.made.to_dict()).to_dict() == told.made.to_dict()


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_the_librarys_own_class_has_these_arguments_and_its_logger_writes_the_same(
    told: Told, tmp_path: Path
) -> None:
    import inspect

    from rlm import RLM as LIBRARYS
    from rlm.logger import RLMLogger as LibrarysLogger

    theirs, ours = inspect.signature(LIBRARYS).parameters, inspect.signature(RLM).parameters
    assert list(theirs) == [name for name in ours if name != "policy"]
    log = LibrarysLogger(str(tmp_path))
    log.log_metadata(_Given(told.lines[0]))
    for turn in told.lines[1:]:
        log.log(_Given(turn))
    with open(log.log_file_path) as file:
        assert [list(json.loads(line)) for line in file] == [list(line) for line in told.lines]


class _Given:
    """A record that says of itself what a line had."""

    def __init__(self, line: dict[str, Any]) -> None:
        self.line = {name: line[name] for name in line if name not in ("type", "timestamp", "iteration")}

    def to_dict(self) -> dict[str, Any]:
        return self.line


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


@pytest.fixture(scope="module")
def opened(server: Loopback, guest: object) -> Iterator[RLM]:
    with rlm_at(server, max_iterations=2, max_errors=2, max_tokens=100_000) as rlm:
        yield rlm


def test_a_model_that_has_had_its_turns_is_asked_for_its_answer(opened: RLM, server: Loopback) -> None:
    replies(server, [cell("x = 1"), cell("y = 2"), "It is 3."])
    assert opened.completion({"a": [1, 2]}).response == "It is 3."


def test_turns_that_fail_in_a_row_end_a_completion(opened: RLM, server: Loopback) -> None:
    replies(server, [cell("1 / 0"), cell("2 / 0")])
    with pytest.raises(ErrorThresholdExceededError, match="2 turns in a row failed, 2 allowed") as caught:
        opened.completion("x")
    assert "ZeroDivisionError" in str(caught.value.last_error)
    assert str(caught.value.partial_answer).endswith(cell("2 / 0"))


def test_tokens_of_all_models_together_end_a_completion(opened: RLM, server: Loopback) -> None:
    def answer(seen: Any, write: Callable[[bytes], Any]) -> None:
        usage = {"prompt_tokens": 6_000, "completion_tokens": 95_000, "total_tokens": 101_000}
        write(http("200 OK", completion_body(cell("x = 1"), usage=usage)))

    server.behaviour = answer
    with pytest.raises(TokenLimitExceededError) as caught:
        opened.completion("x")
    assert caught.value.token_limit == 100_000


def test_one_that_is_open_takes_a_completion_after_another_until_it_is_closed(
    opened: RLM, server: Loopback
) -> None:
    replies(server, [cell("answer['content'] = context[0]['n']\nanswer['ready'] = True")])
    assert opened.completion([{"n": 5}]).response == "5"
    with pytest.raises(UsageError, match="open already"):
        opened.__enter__()


def test_where_an_event_loop_runs_it_is_awaited(server: Loopback) -> None:
    rlm = rlm_at(server, environment_kwargs={"setup_code": "n = 4"})

    async def main() -> list[str]:
        with pytest.raises(UsageError, match="event loop"):
            rlm.completion("x")
        async with rlm:
            replies(server, [cell("answer['content'] = n + 1\nanswer['ready'] = True")] * 2)
            both = await asyncio.gather(rlm.acompletion("x"), rlm.acompletion("y"))
            return [made.response for made in both]

    assert asyncio.run(main()) == ["5", "5"]


def test_a_log_that_cannot_be_written_is_raised(opened: RLM, server: Loopback) -> None:
    class Full(RLMLogger):
        def log(self, iteration: Any) -> None:
            raise OSError("full")

    replies(server, [cell("answer['content'] = 1\nanswer['ready'] = True")])
    with pytest.raises(OSError, match="full"):
        rlm_at(server, logger=Full()).completion("x")


def test_the_page_runs_as_it_stands(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies(server, [cell("answer['content'] = context.count('needle')\nanswer['ready'] = True")])
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.setattr("rlm_wasm.compat.rlm.policy_here", strict_here)
    exec(compile(block.replace("http://localhost:8000/v1", server.url), PAGE.name, "exec"), {})
    assert capsys.readouterr().out == "1 11 True\n"
