"""Agents of the OpenAI Agents SDK with our tool: their runs, sessions and errors."""

from __future__ import annotations

import gc
import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.integrations.python_sessions import PythonSessions
from rlm_wasm.integrations.tool_policy import with_tools
from tests.support.machine_grade import strict_here

HAS = importlib.util.find_spec("agents") is not None
pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(not HAS, reason="the extra is not installed: pip install openai-agents"),
]
if HAS:
    from agents import Agent, FunctionTool, Runner, set_tracing_disabled
    from agents.testing import ScriptedModel, assistant_message, function_call

    from rlm_wasm.integrations.openai_agents import python_tool

    set_tracing_disabled(True)

PAGE = Path(__file__).parents[3] / "docs" / "openai-agents.md"


@pytest.fixture(scope="module")
def sessions() -> Iterator[PythonSessions]:
    with PythonSessions(with_tools(strict_here(), ["*"]), tools=[price]) as made:
        yield made


def price(fruit: str) -> int:
    """Return the price."""
    return {"apple": 3}[fruit]


def agent_with(tool: Any, *turns: list[str]) -> Any:
    """Return an agent: each turn is code of calls that are made together, and then come its last words."""
    steps = [
        [
            function_call("run_python", {"code": code}, call_id=f"{number}.{at}")
            for at, code in enumerate(turn)
        ]
        for number, turn in enumerate(turns)
    ]
    return Agent(name="worker", model=ScriptedModel([*steps, [assistant_message("done")]]), tools=[tool])


def shown(result: Any) -> list[str]:
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


def test_a_run_has_a_session_with_tools_and_errors(sessions: PythonSessions) -> None:
    tool = python_tool(sessions)
    agent = agent_with(tool, ["x = price('apple')\nx"], ["1 / 0", "price('plum')"], ["x * 2"])
    result = Runner.run_sync(agent, "?")
    first, second, third, fourth = shown(result)
    assert (first, fourth, result.final_output) == ("3", "6", "done")
    assert "ZeroDivisionError" in second
    assert "the tool price failed" in third
    assert "NameError" in shown(Runner.run_sync(agent_with(tool, ["x"]), "?"))[0]


def test_runs_on_several_threads_and_loops_have_a_session_each(sessions: PythonSessions) -> None:
    tool = python_tool(sessions)

    def work(n: int) -> str:
        return shown(Runner.run_sync(agent_with(tool, [f"x = {n}"], ["x * 2"]), "?"))[-1]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(5))) == [str(n * 2) for n in range(5)]


def test_a_session_ends_with_what_is_left_of_its_run_and_one_of_a_key_does_not(guest: object) -> None:
    with PythonSessions(strict_here(), sessions_max=64) as own:
        tool = python_tool(own)
        for n in range(3):
            Runner.run_sync(agent_with(tool, [f"x = {n}"]), "?")
        gc.collect()
        Runner.run_sync(agent_with(tool, ["1"]), "?")
        assert len(own.keys()) < 3
        kept = python_tool(own, session_key=lambda context: context.context)
        for turn in ("x = 1", "x += 1"):
            Runner.run_sync(agent_with(kept, [turn]), "?", context="Ann")
        assert shown(Runner.run_sync(agent_with(kept, ["x"]), "?", context="Ann")) == ["2"]
        assert "NameError" in shown(Runner.run_sync(agent_with(kept, ["x"]), "?", context="Bob"))[0]


def test_it_is_a_tool_of_the_packages_with_the_schema_that_a_model_needs(sessions: PythonSessions) -> None:
    tool = python_tool(sessions, name="python", needs_approval=True)
    assert isinstance(tool, FunctionTool)
    assert (tool.name, tool.needs_approval, tool.strict_json_schema) == ("python", True, True)
    assert tool.params_json_schema["properties"]["code"]["type"] == "string"
    assert tool.params_json_schema["required"] == ["code"]
    assert "price(fruit: str) -> int: Return the price." in tool.description


def test_arguments_that_are_none_are_told_to_the_model(sessions: PythonSessions) -> None:
    model = ScriptedModel(
        [[function_call("run_python", '{"kode": 1}', call_id="1")], [assistant_message("done")]]
    )
    result = Runner.run_sync(Agent(name="worker", model=model, tools=[python_tool(sessions)]), "?")
    assert "error" in shown(result)[0]
    assert result.final_output == "done"


def test_the_page_runs_as_it_stands(
    guest: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "rlm_wasm.integrations.python_sessions.with_tools",
        lambda base, names: with_tools(base or strict_here(), names),
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert capsys.readouterr().out == "1\n"
