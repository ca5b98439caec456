"""Tools in a run: asked of its ledger, told in its log, repeated from it without a call."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import Event, Policy, Runtime, Tool
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import ToolError, UsageError
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


def policy(**sections: Any) -> Policy:
    sections["tools"] = {"allow": ["*"], **sections.get("tools", {})}
    return small_policy(events={"texts": True}, **sections)


NO_INT = "number: Input should be a valid integer, unable to parse string as an integer"


async def double(number: int) -> int:
    """Return twice a number."""
    return number * 2


def two_questions(folder: Path, outer: str, inner: str) -> str:
    """Write a root model that runs `inner` for the question "inner", and `outer` for any other."""
    path = folder / "model.py"
    path.write_text(
        f"OUTER, INNER = {outer!r}, {inner!r}\n"
        "def reply(messages, model):\n"
        "    code = INNER if 'Question: inner' in messages[1]['content'] else OUTER\n"
        "    return f'```repl\\n{code}\\n```'\n"
    )
    return f"script:{path}"


def of(events: list[Event], kind: str) -> list[dict[str, Any]]:
    return [dict(event.data) for event in events if event.kind == kind]


async def test_a_run_calls_its_tools_and_its_ledger_knows_what_they_cost(tmp_path: Path) -> None:
    def refuses() -> None:
        raise ToolError("not today")

    code = (
        "import asyncio\n"
        "many = await asyncio.gather(double(1), priced(2), double(3))\n"
        "try:\n    refuses()\nexcept ToolError as e:\n    said = str(e)\n"
        "try:\n    double('x')\nexcept ToolArgumentError as e:\n    wrong = str(e)\n"
        "FINAL([many, said, wrong, budget()['requests']['spent'], budget()['cost_microdollars']['spent']])"
    )
    priced = Tool(double, name="priced", cost_microdollars=70)
    events: list[Event] = []
    model = Script(tmp_path).reply("root", code).spec
    async with Runtime(policy(), model=model, tools=[double, priced, refuses]) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.answer is not None
    assert result.answer == str(
        [
            [2, 4, 6],
            "not today",
            "number: Input should be a valid integer, unable to parse string as an integer",
            6,
            70,
        ]
    )
    assert result.spent["cost_microdollars"] == 70
    assert result.spent["requests"] == 6
    called = of(events, "tool_called")
    assert [each["tool"] for each in called] == ["double", "priced", "double", "refuses", "double"]
    assert [each["reserved_cost_microdollars"] for each in called] == [0, 70, 0, 0, 0]
    assert len({each["group"] for each in called[:3]}) == 1
    answered = {each["request"]: each for each in of(events, "tool_answered")}
    assert sorted(answered) == [each["request"] for each in called]
    ends = [answered[each["request"]] for each in called]
    assert [(each["status"], each["cost_microdollars"]) for each in ends] == [
        ("completed", 0),
        ("completed", 70),
        ("completed", 0),
        ("failed", 0),
        ("denied", 0),
    ]
    assert ends[1]["text"] == "4"
    assert ends[4]["error"] == "ToolArgumentError"


async def test_the_model_and_children_are_told_of_the_tools(tmp_path: Path) -> None:
    model = two_questions(tmp_path, "FINAL(rlm_query('inner'))", "FINAL(double(21))")
    events: list[Event] = []
    async with Runtime(policy(), model=model, tools=[double]) as runtime:
        result = await runtime.ask("outer", sinks=[events.append])
    assert result.answer == "42"
    system = of(events, "query_received")[0]["texts"][0]
    assert "  - double(number: int) -> int: Return twice a number.;\n" in system


async def test_a_price_that_is_not_left_and_calls_that_are_used_up_are_refused_before_a_call(
    tmp_path: Path,
) -> None:
    calls: list[int] = []

    def dear(number: int) -> None:
        calls.append(number)

    code = (
        "told = []\n"
        "for call in (lambda: dear(1), lambda: rare(1), lambda: rare(2), lambda: other(1)):\n"
        "    try:\n        call()\n"
        "    except Exception as e:\n        told.append([type(e).__name__, str(e)])\n"
        "FINAL(told)"
    )
    tools = [Tool(dear, cost_microdollars=10_000_000), Tool(dear, name="rare", calls_max=1)]
    model = Script(tmp_path).reply("root", code).spec
    async with Runtime(policy(), model=model, tools=tools) as runtime:
        result = await runtime.ask("?")
    assert result.answer is not None
    told = eval(result.answer)
    assert [kind for kind, _ in told] == ["BudgetExceeded", "BudgetExceeded", "NameError"]
    assert "cost_microdollars budget exceeded: requested 10000000" in told[0][1]
    assert "tools.caps.rare.calls" in told[1][1]
    assert calls == [1]


@pytest.mark.threat("T-343")
async def test_a_tool_that_hangs_ends_in_time_and_the_run_goes_on(tmp_path: Path) -> None:
    released = threading.Event()

    def hang() -> None:
        released.wait(60)

    async def wait() -> None:
        await anyio.sleep_forever()

    code = (
        "told = []\n"
        "for call in (hang, wait):\n"
        "    try:\n        call()\n    except ToolTimeout as e:\n        told.append(str(e))\n"
        "FINAL(told)"
    )
    model = Script(tmp_path).reply("root", code).spec
    tools = [Tool(hang, timeout_ms=30), Tool(wait, timeout_ms=30)]
    async with Runtime(policy(), model=model, tools=tools) as runtime:
        result = await runtime.ask("?")
    released.set()
    assert result.answer is not None
    assert eval(result.answer) == [
        f"the tool {name} did not come back within 30 ms" for name in ("hang", "wait")
    ]


async def test_a_run_that_is_cancelled_cancels_its_tools(tmp_path: Path) -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    events: list[Event] = []
    model = Script(tmp_path).reply("root", "wait()").spec
    async with Runtime(policy(), model=model, tools=[Tool(wait, cost_microdollars=5)]) as runtime:
        run = runtime.start("?", sinks=[events.append])
        await begun.wait()
        run.cancel("enough")
        result = await run.result()
    assert ended.is_set()
    assert result.partial
    (end,) = of(events, "tool_answered")
    # It was called, and costs what it costs.
    assert (end["status"], end["cost_microdollars"]) == ("cancelled", 5)


async def test_a_tool_may_ask_the_same_runtime(tmp_path: Path) -> None:
    runtime: Runtime

    async def deeper(question: str) -> str | None:
        return (await runtime.ask(question)).answer

    model = two_questions(tmp_path, "FINAL(deeper('inner'))", "FINAL('from inside')")
    async with Runtime(policy(), model=model, tools=[deeper]) as runtime:
        assert (await runtime.ask("outer")).answer == "from inside"


async def test_a_recorded_run_is_repeated_without_a_call(tmp_path: Path) -> None:
    calls: list[str] = []

    class NotThere(ToolError):
        pass

    async def look(name: str) -> dict[str, Any]:
        """Look something up."""
        calls.append(name)
        if name == "none":
            raise NotThere("there is none")
        return {"name": name, "call": len(calls), "half": "\ud800"}

    def large() -> str:
        return "x" * 2_000_000

    code = (
        "made = look.map(['a', 'b'])\n"
        "try:\n    look('none')\nexcept ToolError as e:\n    made.append(str(e))\n"
        "try:\n    large()\nexcept LimitExceeded as e:\n    made.append([e.key, e.limit, str(e)])\n"
        "try:\n    look(7)\nexcept ToolArgumentError as e:\n    made.append(str(e))\n"
        "print(made)\nFINAL(str(made))"
    )
    model = Script(tmp_path).reply("root", code).spec
    log = tmp_path / "run.jsonl"
    async with Runtime(policy(), model=model, tools=[look, large]) as runtime:
        with JsonlSink(log) as sink:
            result = await runtime.ask("?", sinks=[sink.write])
    assert sorted(calls) == ["a", "b", "none"]
    assert result.answer is not None
    again = await replay(Recording.open(log))
    assert (again.difference, again.ended) == (None, None)
    assert again.events == len(log.read_text().splitlines())
    assert sorted(calls) == ["a", "b", "none"]


@pytest.mark.threat("T-342")
async def test_a_tenants_runs_have_the_tools_that_the_policy_names_for_it(tmp_path: Path) -> None:
    named = policy(tools={"allow": [], "tenants": {"acme": ["double"]}})
    code = "FINAL('double' in globals())"
    script = Script(tmp_path).reply("root", code)
    async with Runtime(named, model=script.spec, tools=[double]) as runtime:
        assert (await runtime.ask("?", tenant="acme")).answer == "True"
        assert (await runtime.ask("?")).answer == "False"
    with pytest.raises(UsageError, match="the policy allows nobody the tool double"):
        Runtime(small_policy(), model=script.spec, tools=[double])
