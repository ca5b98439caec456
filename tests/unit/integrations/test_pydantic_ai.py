"""pydantic-ai's agents in code mode: their tools as functions of code, which the library validates."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.integrations.python_sessions import PythonSessions
from rlm_wasm.integrations.tool_policy import with_tools
from tests.support.machine_grade import strict_here

HAS = importlib.util.find_spec("pydantic_ai") is not None
pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(not HAS, reason="the extra is not installed: pip install pydantic-ai-slim"),
]
if HAS:
    from pydantic_ai import Agent, ModelRetry, RunContext, Tool
    from pydantic_ai.exceptions import UsageLimitExceeded
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.toolsets import FunctionToolset

    from rlm_wasm.integrations.pydantic_ai import code_mode, pydantic_ai_policy

PAGE = Path(__file__).parents[3] / "docs" / "pydantic-ai.md"
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="none")


@pytest.fixture(scope="module")
def sessions() -> Iterator[PythonSessions]:
    with PythonSessions(with_tools(strict_here(), ["*"])) as made:
        yield made


def script(*cells: str, seen: list[Any] | None = None) -> Any:
    """Return a model that runs one piece of code after the other, and ends with what the last one gave."""
    left = list(cells)

    def reply(messages: list[Any], info: Any) -> Any:
        if seen is not None:
            seen.append(info.function_tools)
        if left:
            return ModelResponse([ToolCallPart("run_python", {"code": left.pop(0)})])
        return ModelResponse([TextPart("done")])

    return FunctionModel(reply)


def shown(result: Any) -> list[str]:
    parts = (part for message in result.all_messages() for part in message.parts)
    return [str(part.content) for part in parts if isinstance(part, ToolReturnPart)]


def population(city: str, year: int = 2020) -> dict[str, Any]:
    """Return how many people live in a city.

    Args:
        city: its name
        year: when
    """
    if city not in ("Bern", "Basel"):
        raise ModelRetry("there are Bern and Basel")
    return {"city": city, "n": {"Bern": 137, "Basel": 178}[city] + year - 2020}


def fails() -> str:
    """Fail."""
    raise ValueError("not for the model")


def test_an_agents_tools_are_functions_of_code_with_state_over_calls(sessions: PythonSessions) -> None:
    seen: list[Any] = []
    model = script(
        "x = population('Bern')\nx['n']",
        "[each['n'] for each in population.map(['Bern', 'Basel'], [2021, 2022])]",
        "import asyncio\nlen(await asyncio.gather(population('Bern'), population(city='Basel')))",
        "import inspect\nx['city'], str(inspect.signature(population)), population.__doc__[:10]",
        seen=seen,
    )
    agent = Agent(model, toolsets=[code_mode(population, sessions=sessions)])
    result = asyncio.run(agent.run("?"))
    first, second, third, fourth = shown(result)
    assert (first, second, third) == ("137", "[138, 180]", "2")
    assert "'Bern', '(city: str, year: int = 2020)" in fourth.replace('"', "'")
    assert [each.name for each in seen[0]] == ["run_python"]
    assert "def population(*, city: str, year: int = 2020)" in seen[0][0].description
    assert (
        "NameError"
        in shown(asyncio.run(Agent(script("x"), toolsets=[code_mode(sessions=sessions)]).run("?")))[0]
    )


def test_what_a_tool_refuses_or_fails_with_is_the_codes_to_catch(sessions: PythonSessions) -> None:
    model = script(
        "kept = 1\npopulation('Rome')",
        "population('Bern', 'long ago')",
        "population()",
        "try:\n    fails()\nexcept ToolError as e:\n    print(e)",
        "kept",
    )
    agent = Agent(model, toolsets=[code_mode(population, fails, sessions=sessions)])
    retry, wrong, missing, failed, kept = shown(asyncio.run(agent.run("?")))
    assert "ToolError: there are Bern and Basel" in retry
    assert "year: Input should be a valid integer" in wrong
    assert "city" in missing
    assert failed == "the tool fails failed"
    assert kept == "1"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tools_are_called_on_the_runs_own_loop_with_its_dependencies(sessions: PythonSessions) -> None:
    loop = asyncio.get_running_loop()

    async def where(ctx: RunContext[str]) -> list[Any]:
        """Say where."""
        return [asyncio.get_running_loop() is loop, ctx.deps, COLOUR.get(), ctx.tool_name]

    COLOUR.set("red")
    agent = Agent(script("where()"), deps_type=str, toolsets=[code_mode(where, sessions=sessions)])
    result = await agent.run("?", deps="mine")
    assert shown(result) == ["[True, 'mine', 'red', 'where']"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_is_cancelled_cancels_its_tools_and_frees_its_session(
    sessions: PythonSessions,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        """Hang."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    before = await asyncio.to_thread(sessions.keys)
    agent = Agent(script("hang()"), toolsets=[code_mode(hang, sessions=sessions)])
    task = asyncio.create_task(agent.run("?"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
    assert await asyncio.to_thread(sessions.keys) == before


def test_what_ends_a_run_is_not_for_its_code(sessions: PythonSessions) -> None:
    def stops() -> None:
        """Stop."""
        raise UsageLimitExceeded("enough")

    code = "try:\n    stops()\nexcept BaseException:\n    pass"
    agent = Agent(script(code), toolsets=[code_mode(stops, sessions=sessions)])
    with pytest.raises(UsageLimitExceeded, match="enough"):
        asyncio.run(agent.run("?"))


def test_tools_that_code_cannot_wait_for_stay_the_models_own(sessions: PythonSessions) -> None:
    seen: list[Any] = []
    careful = Tool(fails, name="careful", requires_approval=True)
    agent = Agent(
        script("'careful' in globals(), get_weather()", seen=seen),
        toolsets=[
            code_mode(FunctionToolset([careful]), Tool(weather, name="get-weather"), sessions=sessions)
        ],
    )
    assert shown(asyncio.run(agent.run("?"))) == ["(False, 'rain')"]
    assert sorted(each.name for each in seen[0]) == ["careful", "run_python"]


def weather() -> str:
    """Return the weather."""
    return "rain"


def test_runs_of_one_key_share_a_session_on_whichever_thread(sessions: PythonSessions) -> None:
    toolset = code_mode(population, sessions=sessions, session_key=lambda ctx: f"key {ctx.deps}")

    def work(n: int) -> str:
        agent = Agent(script(f"x = {n}", "x * 2"), deps_type=int, toolsets=[toolset])
        return shown(asyncio.run(agent.run("?", deps=n)))[-1]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(4))) == ["0", "2", "4", "6"]
    again = Agent(script("x"), deps_type=int, toolsets=[toolset])
    assert shown(asyncio.run(again.run("?", deps=3))) == ["3"]


def test_the_librarys_test_model_calls_it(sessions: PythonSessions) -> None:
    agent = Agent(TestModel(), toolsets=[code_mode(population, sessions=sessions)])
    assert "NameError" in asyncio.run(agent.run("?")).output


def test_what_cannot_be_is_refused_where_it_is_given(sessions: PythonSessions) -> None:
    with pytest.raises(UsageError, match="give one of the two"):
        code_mode(population, sessions=sessions, policy=strict_here())
    with pytest.raises(UsageError, match="no name of a function"):
        code_mode(population, sessions=sessions, name="run python")
    with PythonSessions(strict_here()) as none_allowed:
        agent = Agent(script("1"), toolsets=[code_mode(population, sessions=none_allowed)])
        with pytest.raises(UsageError, match="the tool population"):
            asyncio.run(agent.run("?"))


def test_the_page_runs_as_it_stands(
    guest: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = pydantic_ai_policy
    monkeypatch.setattr(
        "rlm_wasm.integrations.pydantic_ai.pydantic_ai_policy", lambda base=None: own(base or strict_here())
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    with suppress(RuntimeError):  # what `run_sync` leaves on a thread
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)
    assert capsys.readouterr().out == "315\n"
