"""DSPy's programs on our interpreter: its protocol, its modules, its tools and its errors."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from tests.support.machine_grade import strict_here

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(
        importlib.util.find_spec("dspy") is None, reason="the extra is not installed: pip install dspy"
    ),
]
if importlib.util.find_spec("dspy") is not None:
    import dspy
    from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
    from dspy.utils.dummies import DummyLM

    from rlm_wasm.integrations.dspy import TOOL_NAME, SandboxInterpreter, SandboxInterpreters, dspy_policy

PAGE = Path(__file__).parents[3] / "docs" / "dspy.md"
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="none")


@pytest.fixture(scope="module")
def interpreters() -> Iterator[Any]:
    with SandboxInterpreters(dspy_policy(strict_here())) as made:
        yield made


@pytest.fixture
def interpreter(interpreters: Any) -> Iterator[Any]:
    with interpreters() as made:
        yield made


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("print('a'); print('b')", "a\nb"),
        ("6 * 7", 42),
        ("[1, 'x', None]", [1, "x", None]),
        ("print('seen')\n6 * 7", "seen\n42"),
        ("object.__new__", "<built-in method __new__ of type object at"),
        ("x = 1", None),
        ("", None),
    ],
)
def test_what_code_comes_to_is_what_it_wrote_or_its_last_value(
    interpreter: Any, code: str, result: object
) -> None:
    made = interpreter.execute(code)
    assert made.startswith(result) if isinstance(made, str) and isinstance(result, str) else made == result


def test_it_is_an_interpreter_of_dspys_and_starts_by_itself(interpreters: Any) -> None:
    made = interpreters()
    assert isinstance(made, dspy.CodeInterpreter)
    assert made.execute("x = 3\nx") == 3
    assert made("x + 1") == 4
    made.start()
    made.shutdown()
    made.shutdown()
    with pytest.raises(CodeInterpreterError, match="has ended"):
        made.execute("x")


def test_variables_keep_what_code_made_of_them_until_another_value_is_given(interpreter: Any) -> None:
    given = {"rows": [1, 2], "text": "a" * 1_000_000, "answer": {"n": 1}}
    assert interpreter.execute("rows.append(3)\ntext = text[:2]\nanswer['n'] = 2\nrows", given) == [1, 2, 3]
    assert interpreter.execute("[rows, text, answer['n']]", given) == [[1, 2, 3], "aa", 2]
    given["rows"].append(9)
    assert interpreter.execute("rows", given) == [1, 2, 9]


def test_a_large_text_crosses_whole(interpreter: Any) -> None:
    assert interpreter.execute("len(context), context[-1]", {"context": "é" * 5_000_000 + "x"}) == [
        5_000_001,
        "x",
    ]


@pytest.mark.parametrize("name", ["1x", "class", "SUBMIT", "shout", "ﬁ", "a.b"])
def test_a_name_that_no_variable_can_have_is_refused(interpreter: Any, name: str) -> None:
    interpreter.tools["shout"] = str.upper
    interpreter.execute("kept = 1")
    with pytest.raises(CodeInterpreterError):
        interpreter.execute("1", {name: 1})
    assert interpreter.execute("kept") == 1


def test_values_that_json_has_no_form_for_come_as_dspy_writes_them(interpreter: Any) -> None:
    import datetime

    given = {"day": datetime.date(2026, 1, 2), "pair": (1, 2), "odd": object()}
    day, pair, odd = interpreter.execute("[day, pair, odd]", given)
    assert (day, pair, odd[:7]) == ("2026-01-02", [1, 2], "<object")


def test_submit_takes_its_fields_by_position_or_name(interpreter: Any) -> None:
    assert interpreter.execute("SUBMIT({'a': 1})") == FinalOutput({"output": {"a": 1}})
    interpreter.output_fields = [{"name": "answer", "type": "str"}, {"name": "score"}]
    assert interpreter.execute("SUBMIT('x', 2)") == FinalOutput({"answer": "x", "score": 2})
    assert interpreter.execute("SUBMIT(score=2, answer={1})").output["answer"] in ([1], "{1}")
    for given in ("'x'", "'x', score=1", "1, 2, 3", "answer=1, other=2", ""):
        with pytest.raises(CodeExecutionError, match="SUBMIT takes"):
            interpreter.execute(f"SUBMIT({given})")


def test_what_is_submitted_past_submit_has_its_fields_too(interpreter: Any) -> None:
    interpreter.output_fields = [{"name": "answer"}]
    for given in ("[], {'other': 1}", "[1], {}", "[], {}"):
        with pytest.raises(CodeExecutionError, match="SUBMIT takes its fields"):
            interpreter.execute(f"{TOOL_NAME}('SUBMIT', {given})")
    assert interpreter.execute("SUBMIT(1)") == FinalOutput({"answer": 1})


def test_names_of_pythons_own_that_code_has_taken_are_its_own(interpreter: Any) -> None:
    interpreter.execute("len = dict = zip = set = repr = list = globals = None")
    interpreter.output_fields = [{"name": "answer"}, {"name": "score"}]
    interpreter.tools["shout"] = lambda text: text.upper()
    assert interpreter.execute("SUBMIT(shout('x'), {1})").output["answer"] == "X"


def test_one_that_is_shut_down_while_it_opens_leaves_no_session(interpreters: Any) -> None:
    made = interpreters()
    shared, opened = made._shared, []

    class Late:
        def session(self) -> Any:
            made.shutdown()
            opened.append(shared.session())
            return opened[-1]

    made._shared = Late()
    with pytest.raises(CodeInterpreterError, match="has ended"):
        made.execute("1")
    with pytest.raises(UsageError, match="closed"):
        opened[0].exec("1")


def test_what_was_submitted_stands_whatever_the_code_catches(interpreter: Any) -> None:
    code = "try:\n    SUBMIT(1)\nexcept BaseException:\n    pass\nprint('on')"
    assert interpreter.execute(code) == FinalOutput({"output": 1})
    assert interpreter.execute("1") == 1


@pytest.mark.parametrize("code", ["1 +", "def f(:", " x = 1\ny", "if True:\n\tx\n        y"])
def test_code_that_is_none_is_a_syntax_error(interpreter: Any, code: str) -> None:
    with pytest.raises(SyntaxError):
        interpreter.execute(code)


def test_an_error_names_its_line_after_what_was_written(interpreter: Any) -> None:
    with pytest.raises(CodeExecutionError, match=r"(?s)^before\n.*line 3.*ZeroDivisionError"):
        interpreter.execute("print('before')\nx = 0\n1 / x")
    assert interpreter.execute("x") == 0


def test_a_limit_ends_the_cell_and_not_the_interpreter(interpreters: Any) -> None:
    policy = dspy_policy(strict_here()).replace(cell={"fuel_max": 300_000_000})
    with SandboxInterpreter(policy=policy) as made:
        made.execute("x = 1; given.append(2)", {"given": [1]})
        with pytest.raises(CodeExecutionError, match="fuel"):
            made.execute("while True: pass")
        assert made.execute("x, given", {"given": [1]}) == [1, [1, 2]]


def test_tools_are_called_by_name_or_position_in_the_callers_context(interpreter: Any) -> None:
    async def later(n: int) -> int:
        return n + 1

    def shout(text: str, mark: str = "!") -> str:
        """Say it louder."""
        return text.upper() + mark + COLOUR.get()

    interpreter.tools.update(shout=shout, later=later, nothing=lambda: None, many=lambda **more: more)
    COLOUR.set("red")
    assert interpreter.execute("[shout('a'), shout(text='b', mark='?')]") == ["A!red", "B?red"]
    assert interpreter.execute("[later(1), nothing(), many(a=1, b=[2])]") == [2, None, {"a": 1, "b": [2]}]
    assert "Say it louder" in interpreter.execute("shout.__doc__")
    del interpreter.tools["shout"]
    with pytest.raises(CodeExecutionError, match="NameError"):
        interpreter.execute("shout('a')")


def test_what_a_tool_raises_is_the_codes_to_catch_and_names_no_line_of_the_hosts(interpreter: Any) -> None:
    def fails(kind: str) -> None:
        raise {"value": ValueError, "key": KeyError}[kind]("told")

    interpreter.tools["fails"] = fails
    assert (
        interpreter.execute("try:\n    fails('value')\nexcept Exception as e:\n    print(e)")
        == "ValueError: told"
    )
    with pytest.raises(CodeExecutionError, match="KeyError: 'told'") as caught:
        interpreter.execute("fails(kind='key')")
    assert __file__ not in str(caught.value)
    with pytest.raises(CodeExecutionError, match="TypeError"):
        interpreter.execute("fails()")
    assert interpreter.execute("2") == 2


def test_a_call_whose_own_wait_was_cancelled_is_an_error_of_it(interpreter: Any) -> None:
    async def waits() -> None:
        raise asyncio.CancelledError

    interpreter.tools["waits"] = waits
    assert "CancelledError" in interpreter.execute("try:\n    waits()\nexcept ToolError as e:\n    print(e)")


def test_what_ends_a_program_reaches_its_caller_and_not_the_guest(interpreter: Any) -> None:
    def stops() -> None:
        raise KeyboardInterrupt

    interpreter.tools["stops"] = stops
    with pytest.raises(KeyboardInterrupt):
        interpreter.execute("stops()")
    assert interpreter.execute("2") == 2


def test_one_execution_at_a_time_also_from_a_tool(interpreter: Any) -> None:
    interpreter.tools["again"] = lambda: interpreter.execute("1")
    with pytest.raises(CodeExecutionError, match="executing already"):
        interpreter.execute("again()")


def test_a_tool_may_use_another_interpreter_of_the_same_sandbox(interpreters: Any) -> None:
    def inner(code: str) -> Any:
        with interpreters() as other:
            return other.execute(code)

    with interpreters() as outer:
        outer.tools["inner"] = inner
        assert outer.execute("inner('6 * 7')") == 42


def test_threads_have_an_interpreter_each(interpreters: Any) -> None:
    def work(n: int) -> int:
        with interpreters() as made:
            made.execute(f"x = {n}")
            return int(made.execute("x * 2"))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [n * 2 for n in range(8)]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_works_on_a_thread_where_an_event_loop_runs(interpreters: Any) -> None:
    async def later(n: int) -> int:
        return n + 1

    with interpreters() as made:
        made.tools["later"] = later
        assert made.execute("later(1)") == 2


def test_a_policy_without_the_tool_is_refused_in_words(guest: object) -> None:
    made = SandboxInterpreter(policy=strict_here())
    with pytest.raises(CodeInterpreterError, match="dspy_tool"):
        made.start()


def test_an_rlm_asks_its_models_and_submits_typed_outputs(interpreters: Any) -> None:
    steps = [
        {"reasoning": "look", "code": "print(len(context), type(context).__name__)"},
        {
            "reasoning": "ask",
            "code": "```python\nparts = llm_query_batched([context[:3], 'q'])\nprint(parts, shout('a'))\n```",
        },
        {"reasoning": "wrong", "code": "1 / 0"},
        {"reasoning": "end", "code": "SUBMIT(answer='forty', count=len(parts))"},
    ]
    sub = DummyLM([{"text": "one"}, {"text": "two"}])
    rlm = dspy.RLM(
        "context: str, query: str -> answer: str, count: int",
        interpreter_factory=interpreters,
        tools=[shout],
        sub_lm=sub,
    )
    with dspy.context(lm=DummyLM(steps)):
        made = rlm(context="abc" * 100_000, query="How many?")
    assert (made.answer, made.count) == ("forty", 2)
    outputs = [step["output"] for step in made.trajectory]
    assert "300000 str" in outputs[0]
    assert "A!" in outputs[1]
    assert "ZeroDivisionError" in outputs[2]


def shout(text: str) -> str:
    """Say it louder."""
    return text.upper() + "!"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_rlm_runs_async_with_sub_agents_of_its_own(interpreters: Any) -> None:
    code = "import dspy\nmade = dspy.Predict('question -> reply')(question='Q')\nSUBMIT(answer=made.reply)"
    lm = DummyLM([{"reasoning": "ask", "code": code}, {"reply": "yes"}])
    rlm = dspy.RLM("query -> answer", interpreter_factory=interpreters)
    with dspy.context(lm=lm):
        made = await rlm.acall(query="?")
    assert made.answer == "yes"


def test_a_program_of_thought_and_a_code_act_run_on_it(interpreters: Any) -> None:
    thought = DummyLM(
        [
            {"reasoning": "r", "generated_code": "result = 1+1\nSUBMIT({'answer': result})"},
            {"reasoning": "r", "answer": "2"},
        ]
    )
    with dspy.context(lm=thought):
        made = dspy.ProgramOfThought("question -> answer", interpreter_factory=interpreters)(question="1+1?")
    assert made.answer == "2"
    act = DummyLM(
        [
            {"generated_code": "print(double(4))", "finished": "True"},
            {"reasoning": "r", "answer": "8"},
        ]
    )
    with dspy.context(lm=act):
        acted = dspy.CodeAct("question -> answer", tools=[double], interpreter_factory=interpreters)
        made = acted(question="4 doubled?")
    assert made.answer == "8"


def double(n: int) -> int:
    """Twice as much."""
    return 2 * n


def test_the_page_runs_as_it_stands(
    guest: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "rlm_wasm.integrations.dspy.dspy_policy", lambda base=None: own(base or strict_here())
    )
    own = dspy_policy
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert len(blocks) == 3
    assert capsys.readouterr().out == "1\n3\n"
