"""Rollouts of the package `verifiers` in our sessions: its env, its interception, its rewards, real HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.machine_grade import POLICY_HERE
from tests.support.provider_loopback import (
    KEY,
    KEY_VARIABLE,
    Loopback,
    Seen,
    completion_body,
    http,
    loopback_server,
)

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(
        importlib.util.find_spec("verifiers") is None,
        reason="the extra is not installed: pip install verifiers, where openai may be below 3",
    ),
]
if importlib.util.find_spec("verifiers") is not None:
    import verifiers.v1 as vf
    from verifiers.v1.clients import EvalClientConfig, ModelContext
    from verifiers.v1.utils.loaders import load_environment

    from rlm_wasm.integrations import verifiers as ours

PAGE = Path(__file__).parents[3] / "docs" / "rollouts.md"
TASKSET = re.findall(r"```python\n(import verifiers.*?)```", PAGE.read_text(), re.DOTALL)
# A task whose code asks, and whose session is looked at in the end.
MORE = """
from rlm_wasm.integrations.verifiers import RlmEnv, RlmHarness, RlmTaskData
import verifiers.v1 as vf

__all__ = ["Asking", "RlmHarness"]


class AskingTask(vf.Task[RlmTaskData]):
    @vf.reward
    async def looked(self, trace) -> float:
        return float(trace.info["rlm_wasm"]["check"])


class Asking(vf.Taskset[AskingTask]):
    def load(self):
        data = RlmTaskData(prompt="?", check="len(said)", system_prompt="Be brief.")
        yield AskingTask(data, self.config.task)
"""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with loopback_server() as server:
        yield server


@pytest.fixture
def taskset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def replies(*texts: str, **more: Any) -> Callable[[Seen, Callable[[bytes], None]], None]:
    """Answer by how many replies the conversation has had; what is no conversation gets its words back."""

    def behave(seen: Seen, write: Callable[[bytes], None]) -> None:
        messages: Any = seen.body["messages"]
        turn = sum(message["role"] == "assistant" for message in messages)
        is_root = messages[0]["role"] == "system"
        text = texts[min(turn, len(texts) - 1)] if is_root else messages[-1]["content"].upper()
        write(
            http(
                "200 OK",
                completion_body(text, model="m", created=1, **more),
                "Content-Type: application/json",
            )
        )

    return behave


async def run(name: str, model: Loopback, rollouts: int = 1, **agent: Any) -> list[Any]:
    """Run so many rollouts of each task, side by side; return their traces."""
    config = vf.SingleAgentEnvConfig.model_validate(
        {
            "taskset": {"id": name},
            "agent": {
                "runtime": {"type": "subprocess"},
                "harness": {"id": name, "policy": POLICY_HERE},
                "retries": {"max_retries": 0},
            }
            | agent,
        }
    )
    env = load_environment(config)
    context = ModelContext(model="m", client=EvalClientConfig(base_url=model.url, api_key_var=KEY_VARIABLE))
    async with env.serving():
        slots = [slot for task in env.taskset for slot in env.slots(task, rollouts)]
        episodes = await asyncio.gather(*(env.run_slot(slot, context) for slot in slots))
    return [trace for episode in episodes for trace in episode.traces]


RIGHT = ("```repl\nprint(len(words))\n```", "```repl\nFINAL(words.count('needle'))\n```")


def test_the_pages_taskset_is_run_by_the_packages_env_each_rollout_in_a_fork(
    model: Loopback, taskset: Callable[[str, str], str], tmp_path: Path
) -> None:
    (source,) = TASKSET
    model.behaviour = replies(*RIGHT)
    traces = asyncio.run(run(taskset("needle_taskset", source), model, rollouts=2))
    assert [trace.ok for trace in traces] == [True] * 4, [trace.errors for trace in traces]
    assert [trace.reward for trace in traces] == [1.0] * 4
    assert sorted(trace.last_reply for trace in traces) == ["3", "3", "5", "5"]
    for trace in traces:
        assert trace.stop_condition == "agent_completed"
        assert trace.num_turns == 2
        assert trace.num_branches == 1, "messages only grow, so it is one training sample"
        told = trace.info[ours.INFO]
        assert told["turns"][0]["cells"][0]["stdout"].strip() in ("6", "10")
        assert not told["partial"]
    assert not ours._OPEN
    # The key of the endpoint is the package's: what we send it carries no other.
    assert {seen.headers["authorization"] for seen in model.requests} == {f"Bearer {KEY}"}
    assert ours.export_jsonl(tmp_path / "traces.jsonl", traces) == 4
    lines = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    assert [line["rewards"] for line in lines] == [{"right": 1.0}] * 4
    assert [len(line["turns"]) for line in lines] == [2] * 4


def test_without_the_env_of_ours_a_rollout_has_its_own_sandbox_and_its_code_may_ask(
    model: Loopback, taskset: Callable[[str, str], str], tmp_path: Path
) -> None:
    entries = [{"token": "token_id:7", "logprob": -0.5}, {"token": "token_id:8", "logprob": -1.0}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "```repl\nsaid = llm_query('hm'); FINAL(said)\n```"},
        "finish_reason": "stop",
        "logprobs": {"content": [entry | {"bytes": None, "top_logprobs": []} for entry in entries]},
    }

    def behave(seen: Seen, write: Callable[[bytes], None]) -> None:
        messages: Any = seen.body["messages"]
        if messages[0]["role"] == "system":
            assert "Be brief." in messages[0]["content"]
            body = completion_body(model="m", created=1, choices=[choice])
        else:
            body = completion_body("HM", model="m", created=1)
        write(http("200 OK", body, "Content-Type: application/json"))

    model.behaviour = behave
    (trace,) = asyncio.run(run(taskset("asking_taskset", MORE), model))
    assert trace.ok, trace.errors
    assert trace.reward == 2.0
    ours.export_jsonl(tmp_path / "traces.jsonl", [trace])
    (turn,) = json.loads((tmp_path / "traces.jsonl").read_text())["turns"]
    assert turn["token_ids"] == [7, 8]
    assert turn["logprobs"] == [-0.5, -1.0]


def test_an_endpoint_that_fails_ends_the_rollout_as_the_package_says_it(
    model: Loopback, taskset: Callable[[str, str], str]
) -> None:
    (source,) = TASKSET
    model.behaviour = lambda seen, write: write(http("500 Internal Server Error", "{}"))
    traces = asyncio.run(run(taskset("failing_taskset", source), model))
    assert [trace.ok for trace in traces] == [False, False]
    assert all(trace.last_error is not None for trace in traces)
    assert not ours._OPEN


def test_the_packages_limit_on_turns_ends_a_rollout_and_what_there_is_is_scored(
    model: Loopback, taskset: Callable[[str, str], str]
) -> None:
    (source,) = TASKSET
    model.behaviour = replies("```repl\nlen(words)\n```", "```repl\nwords[0]\n```", "```repl\nwords[1]\n```")
    traces = asyncio.run(run(taskset("long_taskset", source), model, max_turns=2))
    for trace in traces:
        assert trace.stop_condition == "max_turns"
        assert trace.reward == 0.0
        assert trace.info[ours.INFO]["partial"]


def test_a_task_that_cannot_be_prepared_fails_alone(
    model: Loopback, taskset: Callable[[str, str], str]
) -> None:
    (source,) = TASKSET
    source = source.replace(
        'prepare="words = context.split()"', 'prepare="words = context.split(); 1 / (5 - len(words) // 2)"'
    )
    model.behaviour = replies(*RIGHT)
    traces = asyncio.run(run(taskset("broken_taskset", source), model, rollouts=2))
    assert sorted(trace.ok for trace in traces) == [False, False, True, True]
