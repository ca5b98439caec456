"""smolagents' `CodeAgent` on our executor: whole tasks, its tools and agents, its errors and its traps."""

from __future__ import annotations

import contextvars
import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from rlm_wasm.errors import NoJsonForm, UsageError
from tests.support.machine_grade import strict_here

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(
        importlib.util.find_spec("smolagents") is None,
        reason="the extra is not installed: pip install smolagents",
    ),
]
if importlib.util.find_spec("smolagents") is not None:
    from smolagents import CodeAgent, FinalAnswerTool, LogLevel, Model, tool
    from smolagents.local_python_executor import InterpreterError, PythonExecutor
    from smolagents.models import ChatMessage, MessageRole

    from rlm_wasm.integrations.smolagents import SandboxExecutor, SandboxExecutors, smolagents_policy

    class Script(Model):
        """A model that says what is written down, and keeps what it was shown."""

        def __init__(self, *replies: str) -> None:
            super().__init__(model_id="script")
            self.left = list(replies)
            self.seen: list[str] = []

        def generate(self, messages: list[Any], **_: Any) -> Any:
            self.seen.append(str(messages[-1].content))
            return ChatMessage(role=MessageRole.ASSISTANT, content=self.left.pop(0))

    @tool
    def shout(text: str, mark: str = "!") -> str:
        """Say it louder.

        Args:
            text: what to say
            mark: what to end with
        """
        return text.upper() + mark + COLOUR.get()

    @tool
    def fails(kind: str) -> str:
        """Fail.

        Args:
            kind: how
        """
        raise {"value": ValueError, "key": KeyError}[kind]("told")


PAGE = Path(__file__).parents[3] / "docs" / "smolagents.md"
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="")


@pytest.fixture(scope="module")
def executors() -> Iterator[Any]:
    with SandboxExecutors(smolagents_policy(strict_here())) as made:
        yield made


@pytest.fixture
def executor(executors: Any) -> Iterator[Any]:
    with executors() as made:
        yield made


def step(code: str) -> str:
    return f"Thought: so.\n<code>\n{code}\n</code>"


def agent_on(executor: Any, *steps: str, **more: Any) -> tuple[Any, Any]:
    model = Script(*map(step, steps))
    more = {"tools": [shout, fails], "max_steps": len(steps), "verbosity_level": LogLevel.OFF} | more
    return CodeAgent(model=model, executor=executor, **more), model


def test_an_agent_does_a_task_with_tools_and_state_over_steps(executor: Any) -> None:
    agent, model = agent_on(
        executor,
        "words = text.split()\nprint(len(words), shout('a'))\nlen(words)",
        "import sqlite3, sys\ndef first(): return words[0]\nprint(sys.platform)",
        "final_answer({'word': first(), 'n': len(words)})\nprint('never')",
    )
    made = agent.run("Which word?", additional_args={"text": "one two three"})
    assert made == {"word": "one", "n": 3}
    assert "Execution logs:\\n3 A!\\nLast output from code snippet:\\n3" in model.seen[1]
    assert "wasi" in model.seen[2]
    assert not model.left


def test_what_fails_is_told_with_its_line_after_what_was_written_and_loses_nothing(executor: Any) -> None:
    agent, model = agent_on(
        executor,
        "kept = 7\nprint('before')\nfails('value')",
        "import not_there",
        "1 +",
        "try:\n    fails(kind='key')\nexcept Exception as e:\n    final_answer([kept, str(e)])",
    )
    assert agent.run("?") == [7, "KeyError: 'told'"]
    first, second, third = model.seen[1:]
    assert "Execution logs:\\nbefore" in str(agent.memory.steps[1].observations).replace("\n", "\\n")
    assert "line 3" in first
    assert "ValueError: told" in first
    assert __file__ not in first
    assert "not_there" in second
    assert "SyntaxError" in third


def test_an_agent_manages_another_one_on_an_executor_of_its_own(executors: Any) -> None:
    with executors() as inner, executors() as outer:
        helper, _ = agent_on(
            inner,
            "final_answer(shout('found'))",
            name="helper",
            description="Finds.",
            provide_run_summary=False,
        )
        agent, _ = agent_on(outer, "final_answer(helper('find it'))", managed_agents=[helper])
        assert "FOUND!" in agent.run("?")


def test_an_agents_own_checks_of_the_answer_are_called(executor: Any) -> None:
    agent, model = agent_on(
        executor,
        "final_answer(1)",
        "final_answer(2)",
        final_answer_checks=[lambda answer, *_, **__: answer == 2],
    )
    assert agent.run("?") == 2
    assert "Check" in model.seen[1]


def test_a_second_run_goes_on_with_what_the_first_left_or_with_new_values(executor: Any) -> None:
    agent, _ = agent_on(
        executor, "rows.append(3)\nfinal_answer(rows)", "final_answer(rows)", "final_answer(rows)"
    )
    assert agent.run("?", additional_args={"rows": [1]}) == [1, 3]
    assert agent.run("?", reset=False) == [1, 3]
    assert agent.run("?", additional_args={"rows": [9]}) == [9]


def test_it_is_an_executor_of_the_packages_and_cleaned_up_by_its_agent(guest: object) -> None:
    executor = SandboxExecutor(policy=smolagents_policy(strict_here()))
    assert isinstance(executor, PythonExecutor)
    agent, _ = agent_on(executor, "final_answer(6 * 7)")
    with agent:
        assert agent.run("?") == 42
    executor.cleanup()
    with pytest.raises(UsageError, match="cleaned up"):
        executor("1")


@pytest.mark.parametrize(
    ("code", "output", "logs"),
    [
        ("print('a'); print('b')", None, "a\nb\n"),
        ("6 * 7", 42, ""),
        ("{'a': (1, None)}", {"a": [1, None]}, ""),
        ("object()", "<object object at ", ""),
        ("x = 1", None, ""),
        ("import sys; print('e', file=sys.stderr); 'é'", "é", "e\n"),
    ],
)
def test_the_output_of_code_is_its_last_value(executor: Any, code: str, output: object, logs: str) -> None:
    made = executor(code)
    assert made.output == output or str(made.output).startswith(str(output))
    assert (made.logs, made.is_final_answer) == (logs, False)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("'x'", "x"),
        ("answer=None", None),
        ("[1.5, True]", [1.5, True]),
        ("({1}, (2,), b'x', 1j)", [[1], [2], "b'x'", "1j"]),
        ("{1: float('nan')}", {"1": "nan"}),
        ("object", "<class 'object'>"),
    ],
)
def test_an_answer_that_json_has_no_form_for_comes_as_what_is_next_to_it(
    executor: Any, given: str, answer: object
) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool()})
    made = executor(f"final_answer({given})")
    assert (made.output, made.is_final_answer) == (answer, True)


def test_an_answer_stands_whatever_the_code_catches_and_ends_it_otherwise(executor: Any) -> None:
    executor.send_tools({"final_answer": FinalAnswerTool()})
    made = executor("try:\n    final_answer(1)\nexcept BaseException:\n    pass\nprint('on')")
    assert (made.output, made.logs, made.is_final_answer) == (1, "on\n", True)
    assert executor("2").output == 2


def test_a_tool_whose_name_code_took_is_there_again_for_the_next(executor: Any) -> None:
    executor.send_tools({"shout": shout, "final_answer": FinalAnswerTool()})
    executor("final_answer = shout = 5")
    assert executor("final_answer(shout('a'))").output == "A!"
    executor("isinstance = dict = str = list = globals = None")
    assert executor("final_answer({shout('c')})").output == ["C!"]
    executor("del isinstance, dict, str, list, globals")
    executor("globals().clear()")
    assert executor("final_answer(shout('b'))").output == "B!"
    assert "text: string, mark: string" in executor("shout.__doc__").output


def test_tools_are_called_in_the_callers_context_and_taken_away_with_the_next_ones(executor: Any) -> None:
    executor.send_tools({"shout": shout})
    before = COLOUR.set("red")
    try:
        assert executor("shout('a'), shout(text='b', mark='?')").output == ["A!red", "B?red"]
    finally:
        COLOUR.reset(before)
    executor.send_tools({})
    with pytest.raises(InterpreterError, match="there is no tool shout"):
        executor("shout('a')")


def test_a_limit_ends_the_code_and_not_the_session(guest: object) -> None:
    policy = smolagents_policy(strict_here()).replace(cell={"fuel_max": 300_000_000})
    with SandboxExecutor(policy=policy) as made:
        made("x = 1")
        with pytest.raises(InterpreterError, match="fuel"):
            made("print('so far')\nwhile True: pass")
        assert made.state["_print_outputs"] == "so far\n"
        assert made("x").output == 1


def test_a_session_that_is_lost_is_told_and_another_one_has_variables_and_tools_again(guest: object) -> None:
    policy = smolagents_policy(strict_here()).replace(
        cell={"fuel_max": 300_000_000}, sandbox={"checkpoint_bytes_max": 0}
    )
    with SandboxExecutor(policy=policy) as made:
        made.send_variables({"given": [1]})
        made.send_tools({"shout": shout})
        made("x = 1; given.append(2)")
        with pytest.raises(InterpreterError, match="define all variables"):
            made("while True:\n    try:\n        while True: pass\n    except BaseException: pass")
        with pytest.raises(InterpreterError, match="NameError"):
            made("x")
        assert made("given, shout('a')").output == [[1], "A!"]


def test_what_is_written_is_cut_as_the_packages_own_executor_cuts_it(executors: Any) -> None:
    with executors(max_print_outputs_length=100) as made:
        logs = made("print('x' * 10_000)").logs
    assert len(logs) < 400
    assert "truncated" in logs


def test_a_large_text_crosses_whole_and_what_cannot_is_refused_by_its_name(executor: Any) -> None:
    executor.send_variables({"text": "é" * 2_000_000, "raw": b"\0\xff"})
    assert executor("len(text), raw[1]").output == [2_000_000, 255]
    with pytest.raises(NoJsonForm, match="the variable odd"):
        executor.send_variables({"odd": object()})
    for name in ("1x", "class", "ﬁ", "a.b", ""):
        with pytest.raises(UsageError, match="cannot be the name"):
            executor.send_variables({name: 1})
        with pytest.raises(UsageError, match="cannot be the name"):
            executor.send_tools({name: shout})
    assert executor("len(text)").output == 2_000_000


def test_imports_that_are_authorized_are_said_to_mean_nothing(executors: Any) -> None:
    with pytest.warns(UserWarning, match="allows nothing here"), executors(["numpy"]) as made:
        assert made("import json, os, socket, subprocess\n1").output == 1


def test_one_execution_at_a_time_also_from_a_tool(executor: Any) -> None:
    executor.send_tools({"again": lambda: executor("1")})
    with pytest.raises(InterpreterError, match="UsageError: this executor is executing already"):
        executor("again()")
    assert executor("2").output == 2


def test_another_thread_is_refused_while_code_runs(executor: Any) -> None:
    begun, go_on = Event(), Event()

    def wait() -> None:
        begun.set()
        go_on.wait()

    executor.send_tools({"wait": wait})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(executor, "wait()\n5")
        begun.wait()
        try:
            with pytest.raises(UsageError, match="executing already"):
                executor("1")
        finally:
            go_on.set()
        assert running.result().output == 5


def test_what_ends_a_program_reaches_its_caller_and_not_the_guest(executor: Any) -> None:
    def stops() -> None:
        raise KeyboardInterrupt

    executor.send_tools({"stops": stops})
    with pytest.raises(KeyboardInterrupt):
        executor("stops()")
    assert executor("2").output == 2


def test_agents_on_several_threads_have_a_session_each(executors: Any) -> None:
    def work(n: int) -> Any:
        with executors() as executor:
            agent, _ = agent_on(executor, f"x = {n}", "final_answer(x * 2)")
            return agent.run("?")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(6))) == [n * 2 for n in range(6)]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_works_on_a_thread_where_an_event_loop_runs(executor: Any) -> None:
    agent, _ = agent_on(executor, "final_answer(shout('a'))")
    assert agent.run("?") == "A!"


def test_a_policy_without_the_tool_is_refused_in_words(guest: object) -> None:
    with SandboxExecutor(policy=strict_here()) as made:
        with pytest.raises(UsageError, match="smolagents_tool"):
            made("1")


def test_a_tool_that_gives_far_too_much_is_an_error_that_code_can_catch(executor: Any) -> None:
    executor.send_tools({"much": lambda: "x" * 100_000_000, "odd": lambda: object()})
    with pytest.raises(InterpreterError, match=r"tools\.result_bytes_max"):
        executor("y = 1\nmuch()")
    assert executor("y, odd()[:7]").output == [1, "<object"]


def test_the_page_runs_as_it_stands(
    guest: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = smolagents_policy
    monkeypatch.setattr(
        "rlm_wasm.integrations.smolagents.smolagents_policy", lambda base=None: own(base or strict_here())
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert len(blocks) == 3
    assert capsys.readouterr().out.splitlines()[-2:] == ["1", "42"]
