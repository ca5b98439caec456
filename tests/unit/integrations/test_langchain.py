"""LangChain's and LangGraph's agents with our tool: their loops, threads and errors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.integrations.python_sessions import PythonSessions
from rlm_wasm.integrations.tool_policy import with_tools
from tests.support.machine_grade import strict_here

HAS = all(importlib.util.find_spec(name) is not None for name in ("langchain", "langchain_core", "langgraph"))
pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the packages' own
    pytest.mark.skipif(not HAS, reason="the extra is not installed: pip install langchain langgraph"),
]
if HAS:
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.memory import InMemorySaver

    from rlm_wasm.integrations.langchain import python_tool

    class Script(GenericFakeChatModel):
        """A model that says what is written down."""

        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self


PAGE = Path(__file__).parents[3] / "docs" / "langchain.md"


@pytest.fixture(scope="module")
def sessions() -> Iterator[PythonSessions]:
    with PythonSessions(with_tools(strict_here(), ["*"]), tools=[price]) as made:
        yield made


def price(fruit: str) -> int:
    """Return the price."""
    return {"apple": 3}[fruit]


def script(*turns: list[str] | str) -> Any:
    """Return a model: each turn is code of calls that are made together, or the last words."""
    replies = []
    for number, turn in enumerate(turns):
        calls = [
            {"name": "run_python", "args": {"code": code}, "id": f"{number}.{at}", "type": "tool_call"}
            for at, code in enumerate(turn)
            if not isinstance(turn, str)
        ]
        replies.append(AIMessage(content=turn if isinstance(turn, str) else "", tool_calls=calls))
    return Script(messages=iter(replies))


def shown(state: dict[str, Any]) -> list[str]:
    return [str(each.content) for each in state["messages"] if isinstance(each, ToolMessage)]


def test_an_agent_runs_code_over_turns_with_tools_and_errors(sessions: PythonSessions) -> None:
    model = script(["x = price('apple')\nx"], ["1 / 0"], ["price('plum')"], ["x * 2"], "six")
    agent = create_agent(model, tools=[python_tool(sessions)])
    state = agent.invoke({"messages": [("user", "?")]}, {"configurable": {"thread_id": "one"}})
    first, second, third, fourth = shown(state)
    assert (first, fourth) == ("3", "6")
    assert "ZeroDivisionError" in second
    assert "the tool price failed" in third
    assert state["messages"][-1].content == "six"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_thread_has_a_session_also_later_and_calls_of_one_turn_take_turns(
    sessions: PythonSessions,
) -> None:
    turns = (["n = 1", "n += 1"], "one"), (["n"], "two"), (["n"], "three")
    results = []
    saver = InMemorySaver()
    for thread, turn in zip(("a", "a", "b"), turns, strict=True):
        agent = create_agent(script(*turn), tools=[python_tool(sessions)], checkpointer=saver)
        state = await agent.ainvoke(
            {"messages": [("user", "?")]}, {"configurable": {"thread_id": f"async {thread}"}}
        )
        results.append(shown(state)[-1])
    assert results[1] == "2"
    assert "NameError" in results[2]


def test_it_is_a_tool_of_the_packages_with_the_schema_that_a_model_needs(sessions: PythonSessions) -> None:
    tool = python_tool(sessions, name="python", session_key=lambda config: "other")
    assert isinstance(tool, BaseTool)
    assert list(tool.args) == ["code"]
    assert tool.args["code"]["type"] == "string"
    assert "price(fruit: str) -> int: Return the price." in tool.description
    assert (tool.name, tool.invoke({"code": "6 * 7"})) == ("python", "42")


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
    assert capsys.readouterr().out == "1\n15\n"
