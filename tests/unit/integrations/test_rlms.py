"""The official library's RLM on our environment: its loop, its sub-calls, its tools and its traps."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import UsageError
from tests.support.machine_grade import strict_here
from tests.support.provider_loopback import Loopback, completion_body, http, loopback_server

pytestmark = [
    pytest.mark.guest,
    pytest.mark.usefixtures("guest"),
    pytest.mark.filterwarnings("ignore"),  # the package's own
    pytest.mark.skipif(
        importlib.util.find_spec("rlm") is None, reason="the extra is not installed: pip install rlms"
    ),
]
if importlib.util.find_spec("rlm") is not None:
    import rlm.core.rlm as library
    from rlm import RLM
    from rlm.environments.base_env import SupportsPersistence

    from rlm_wasm.integrations.rlms import SandboxREPL, rlms_policy, sandboxed

PAGE = Path(__file__).parents[3] / "docs" / "rlms.md"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Any]:
    with sandboxed(rlms_policy(strict_here())) as opened:
        yield opened


@pytest.fixture
def environment(sandbox: Any) -> Iterator[Any]:
    with SandboxREPL(sandbox=sandbox, custom_tools=TOOLS) as made:
        yield made


def shout(text: str, mark: str = "!") -> str:
    """Say it louder."""
    return text.upper() + mark


def fails() -> None:
    raise ValueError("told")


TOOLS = {"shout": {"tool": shout, "description": "louder"}, "fails": fails, "limit": 7}


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback


def replies(server: Loopback, root: list[str], sub: Callable[[str], str] = str.upper) -> None:
    """Have the endpoint answer the root in order, and sub-calls by what they ask."""
    left = iter(root)

    def answer(seen: Any, write: Callable[[bytes], Any]) -> None:
        messages = seen.body["messages"]
        is_root = messages[0]["role"] == "system"
        write(http("200 OK", completion_body(next(left) if is_root else sub(messages[-1]["content"]))))

    server.behaviour = answer


def rlm_at(server: Loopback, **more: Any) -> Any:
    return RLM(
        backend="openai",
        backend_kwargs={"model_name": "small", "base_url": server.url, "api_key": "none"},
        **more,
    )


def cell(code: str) -> str:
    return f"Look.\n```repl\n{code}\n```"


def test_a_completion_runs_its_code_here_and_asks_through_the_library(sandbox: Any, server: Loopback) -> None:
    replies(
        server,
        [
            cell("print(len(context), type(context).__name__)\nimport sys; print(sys.platform)"),
            cell(
                "parts = llm_query_batched(['a', 'b'])\none = llm_query('c')\nprint(parts, one, shout('d'))"
            ),
            cell("answer['content'] = parts + [one]\nanswer['ready'] = True"),
        ],
    )
    made = rlm_at(server, custom_tools=TOOLS).completion("x" * 300_000, root_prompt="What is it?")
    assert made.response == "['A', 'B', 'C']"
    shown = [
        request.body["messages"][-2]["content"]
        for request in server.requests
        if len(request.body["messages"]) > 4
    ]
    assert any("300000 str\nwasi" in each for each in shown)
    assert any("['A', 'B'] C D!" in each and "REPL variables: [" in each for each in shown)


def test_children_of_a_run_are_sandboxed_too(sandbox: Any, server: Loopback) -> None:
    replies(
        server,
        [
            cell("got = rlm_query('What platform?')\nanswer['content'] = got\nanswer['ready'] = True"),
            cell("import sys\nanswer['content'] = sys.platform + context\nanswer['ready'] = True"),
        ],
    )
    made = rlm_at(server, max_depth=2).completion("q")
    assert made.response == "wasiWhat platform?"


def test_outside_of_the_with_the_library_is_as_it_was(guest: object) -> None:
    before = library.get_environment
    with pytest.raises(UsageError, match="already"), sandboxed(strict_here()):
        pytest.fail("entered")
    assert library.get_environment is before


@pytest.mark.parametrize(
    ("code", "stdout", "error"),
    [
        ("print('a')", "a\n", ""),
        ("1 + 1", "", ""),
        ("1 / 0", "", "\nZeroDivisionError: division by zero"),
        ("1 +", "", "\nSyntaxError: "),
        ("print(shout('a'), shout(mark='?', text='b'), limit)", "A! B? 7\n", ""),
        ("fails()", "", "\nToolError: ValueError: told"),
        ("shout()", "", "\nToolError: TypeError: "),
    ],
)
def test_a_cell_comes_to_what_the_library_shows(environment: Any, code: str, stdout: str, error: str) -> None:
    made = environment.execute_code(code)
    assert made.stdout == stdout
    assert made.stderr.startswith(error)
    assert bool(made.stderr) == bool(error)


def test_variables_live_on_where_a_cell_fails_and_functions_see_later_ones(environment: Any) -> None:
    environment.execute_code("x = 1\ndef f(): return x\n1 / 0")
    environment.execute_code("x = 2")
    made = environment.execute_code("print(f())")
    assert made.stdout == "2\n"
    assert {"x", "limit", "answer"} <= set(made.locals)


@pytest.mark.parametrize(
    "code",
    [
        "answer['content'] = 42\nanswer['ready'] = True",
        "answer = {'content': 42, 'ready': True}",
        "answer['content'] = 42; answer['ready'] = True\n1 / 0",
    ],
)
def test_an_answer_is_told_once_however_it_is_given(environment: Any, code: str) -> None:
    assert environment.execute_code(code).final_answer == "42"
    assert environment.execute_code("y = 1").final_answer is None


def test_names_of_the_library_come_back_after_a_cell_has_taken_them(environment: Any) -> None:
    environment.load_context({"a": 1})
    environment.execute_code("llm_query = None\ncontext = 'zap'\nanswer = 5")
    made = environment.execute_code("print(callable(llm_query), context, answer)")
    assert made.stdout == "True {'a': 1} {'content': '', 'ready': False}\n"


def test_names_of_pythons_own_that_a_cell_has_taken_are_its_own(environment: Any) -> None:
    environment.execute_code("list = dict = tuple = type = str = isinstance = bool = None")
    assert environment.execute_code("print(shout('a')); y = 1").stdout == "A!\n"
    assert environment.execute_code("answer = {'content': 42, 'ready': True}").final_answer == "42"


def test_one_that_could_not_be_prepared_leaves_no_session(sandbox: Any) -> None:
    opened: list[Any] = []

    class Kept:
        def session(self, **more: Any) -> Any:
            opened.append(sandbox.session(**more))
            return opened[-1]

    class Fails(SandboxREPL):
        def load_context(self, context_payload: Any) -> None:
            raise RuntimeError("none")

    with pytest.raises(RuntimeError, match="none"):
        Fails(sandbox=Kept(), context_payload="x")
    with pytest.raises(UsageError, match="closed"):
        opened[0].exec("1")


def test_a_limit_is_told_as_an_error_of_the_code(guest: object) -> None:
    from rlm_wasm import Sandbox

    policy = rlms_policy(strict_here()).replace(cell={"fuel_max": 300_000_000})
    with Sandbox(policy).sync() as own, SandboxREPL(sandbox=own) as made:
        made.execute_code("x = 1")
        assert "FuelExhausted" in made.execute_code("while True: pass").stderr
        assert made.execute_code("print(x)").stdout == "1\n"


def test_a_guest_that_breaks_the_scaffold_breaks_its_own_alone(environment: Any) -> None:
    environment.execute_code("globals().clear()\n")
    made = environment.execute_code("print('on')")
    assert (made.stdout, made.locals, made.final_answer) == ("on\n", {}, None)
    environment.execute_code("__rlm_after = lambda: [1, 'x', None]")
    assert environment.execute_code("y = 1").locals == {"x": ""}


def test_contexts_and_conversations_are_numbered(environment: Any) -> None:
    assert isinstance(environment, SupportsPersistence)
    assert [environment.add_context("one"), environment.add_context([2])] == [0, 1]
    assert environment.add_history([{"role": "user", "content": "hi"}]) == 0
    made = environment.execute_code("print(context, context_1, history_0[0]['content'], len(history))")
    assert made.stdout == "one [2] hi 1\n"
    assert (environment.get_context_count(), environment.get_history_count()) == (2, 1)


def test_what_was_compacted_is_the_history(sandbox: Any) -> None:
    with SandboxREPL(sandbox=sandbox, compaction=True, setup_code="z = 3") as made:
        made.append_compaction_entry({"type": "summary", "content": "so far"})
        assert made.execute_code("print(history[0]['content'], z)").stdout == "so far 3\n"


def test_completions_on_several_threads_have_a_session_each(sandbox: Any, server: Loopback) -> None:
    replies(server, [cell("answer['content'] = len(context)\nanswer['ready'] = True")] * 6)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda n: rlm_at(server).completion("x" * n).response, range(1, 7)))
    assert made == ["1", "2", "3", "4", "5", "6"]


def test_an_environment_that_was_cleaned_up_says_so(sandbox: Any) -> None:
    made = SandboxREPL(sandbox=sandbox)
    made.cleanup()
    made.cleanup()
    with pytest.raises(UsageError, match="cleaned up"):
        made.execute_code("1")


def test_the_page_runs_as_it_stands(
    sandbox: Any, server: Loopback, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies(server, [cell("answer['content'] = context.count('needle')\nanswer['ready'] = True")])
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.setattr("rlm_wasm.integrations.rlms.sandboxed", lambda: sandbox_again(sandbox))
    exec(compile(block.replace("http://localhost:8000/v1", server.url), PAGE.name, "exec"), {})
    assert capsys.readouterr().out == "1\n"


class sandbox_again:
    """The `with` that the module's fixture is in already."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox

    def __enter__(self) -> Any:
        return self.sandbox

    def __exit__(self, *_: object) -> None:
        pass
