"""What a cell does and leaves: the truths of a REPL."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rlm_wasm.errors import GuestException, UsageError
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from rlm_wasm.vm.drive import drive
from rlm_wasm.vm.entropy import seeded_entropy
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import Recorder, cell_limits, completed, run_cell

pytestmark = pytest.mark.guest


def raised(session: Session, source: str, **more: object) -> GuestException:
    """Run a cell that must end in an exception of its own, with the session alive."""
    result = run_cell(session, source, **more)
    assert result.outcome == "guest_exception", (result.outcome, result.error)
    assert result.session_state is SessionState.ALIVE
    assert isinstance(result.error, GuestException)
    return result.error


def test_variables_live_from_cell_to_cell(session: Session) -> None:
    completed(session, "x = [1]\ndef f(): return x[-1]")
    completed(session, "x.append(2)")
    assert completed(session, "f()").result == "2"


def test_variables_set_before_an_exception_survive_it(session: Session) -> None:
    raised(session, "before = 1\n1/0\nafter = 2")
    assert completed(session, "before, 'after' in globals()").result == "(1, False)"


def test_a_cell_whose_value_nobody_wants_is_not_written_as_one(session: Session) -> None:
    completed(
        session, "import rlm_values\ntold = []\nrlm_values.tell = lambda value, room: told.append(value)"
    )
    assert completed(session, "'kept'").variables == ("rlm_values", "told")
    assert completed(session, "told").result == "[]"
    drive(session.run(Cell("'wanted'", cell_limits(), report_value=True)))
    assert completed(session, "told").result == "['wanted']"


def test_functions_see_current_globals(session: Session) -> None:
    completed(session, "limit = 1\ndef f(): return limit")
    completed(session, "limit = 2")
    assert completed(session, "f()").result == "2"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("1+1", "2"),
        ("x = 5\nx * 2", "10"),
        ("x = 5", None),
        ("None", None),
        ("'text'", "'text'"),
        ("for i in range(2): i", None),
        ("", None),
        ("# only a comment", None),
        ("1;", "1"),
        ("'\\ud800'", "'\\ud800'"),
    ],
)
def test_last_expression_is_shown(session: Session, source: str, shown: str | None) -> None:
    assert completed(session, source).result == shown


def test_a_long_result_is_cut_before_its_repr_is_made(session: Session) -> None:
    result = completed(session, "'x' * 30_000_000")
    assert result.result is not None
    assert len(result.result) <= 65_536
    assert result.fuel_used < 1_000_000_000


def test_stdout_and_stderr_are_apart_and_in_order(session: Session) -> None:
    result = completed(session, "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c', end='')")
    assert (result.stdout, result.stderr) == ("a\nc", "b\n")


def test_output_of_one_cell_is_not_in_the_next(session: Session) -> None:
    completed(session, "print('first')")
    assert completed(session, "print('second')").stdout == "second\n"


def test_output_before_an_exception_is_kept(session: Session) -> None:
    result = run_cell(session, "print('out')\nraise ValueError('no')")
    assert result.stdout == "out\n"
    assert isinstance(result.error, GuestException)
    assert (result.error.type_name, result.error.guest_message) == ("ValueError", "no")


def test_variables_are_reported_without_reserved_names(session: Session) -> None:
    result = completed(session, "import math\ncount = 1\n_hidden = 2\nglobals()['v' * 5000] = 3")
    assert result.variables == ("math", "count")


def test_show_vars_maps_names_to_types(session: Session) -> None:
    completed(session, "a, b = 1, 'x'")
    assert completed(session, "SHOW_VARS()").result == "{'a': 'int', 'b': 'str'}"


# -- tracebacks ------------------------------------------------------------------------------------


def test_traceback_holds_the_cells_frames_and_no_others(session: Session) -> None:
    error = raised(session, "import json\ndef f(): json.loads('{')\nf()")
    assert [line.strip() for line in error.traceback.splitlines() if line.startswith("  File")] == [
        'File "<cell 1>", line 3, in <module>',
        'File "<cell 1>", line 2, in f',
    ]
    assert "    def f(): json.loads('{')" in error.traceback
    assert error.type_name == "JSONDecodeError"


def test_traceback_names_frames_of_earlier_cells(session: Session) -> None:
    completed(session, "def f(): return 1/0")
    assert '"<cell 1>", line 1, in f' in raised(session, "f()").traceback


def test_syntax_error_points_at_its_place(session: Session) -> None:
    error = raised(session, "x = (\n")
    assert error.type_name == "SyntaxError"
    assert error.traceback.splitlines() == [
        '  File "<cell 1>", line 1',
        "    x = (",
        "        ^",
        "SyntaxError: '(' was never closed",
    ]


def test_chained_exceptions_are_both_told(session: Session) -> None:
    text = raised(session, "try: 1/0\nexcept Exception as e: raise KeyError('k') from e").traceback
    assert text.index("ZeroDivisionError") < text.index("direct cause") < text.index("KeyError")


def test_suppressed_context_is_not_told(session: Session) -> None:
    assert (
        "ZeroDivision"
        not in raised(session, "try: 1/0\nexcept Exception: raise KeyError('k') from None").traceback
    )


def test_recursion_is_a_bounded_traceback_and_the_session_lives(session: Session) -> None:
    error = raised(session, "def f(): f()\nf()")
    assert error.type_name == "RecursionError"
    assert len(error.traceback) < 3_000
    assert "more frames]" in error.traceback
    assert completed(session, "1+1").result == "2"


def test_a_million_frames_cost_a_walk_and_not_a_page_each(session: Session) -> None:
    source = (
        "import sys\nsys.setrecursionlimit(10**7)\ndef f(n):\n    if n: f(n-1)\n    else: 1/0\nf(200_000)"
    )
    result = run_cell(session, source)
    assert result.outcome in ("guest_exception", "memory_exceeded"), result
    assert result.fuel_used < 10_000_000_000
    if isinstance(result.error, GuestException):
        assert len(result.error.traceback) < 5_000


HOSTILE_EXCEPTIONS = {
    "str raises": "class E(Exception):\n def __str__(s): raise KeyError\nraise E",
    "str is no str": "class E(Exception):\n def __str__(s): return 5\nraise E",
    "str is endless": "class E(Exception):\n def __str__(s): return 'x' * 10_000_000\nraise E",
    "name is endless": "raise type('N' * 100_000, (Exception,), {})('m')",
    "name is empty": "raise type('', (Exception,), {})('m')",
    "module is a liar": "raise type('E', (Exception,), {'__module__': 5})('m')",
    "lone surrogate": "raise ValueError('\\ud800 and \\udfff')",
    "surrogate in a name": "raise type('N\\ud800', (Exception,), {})('m')",
    "a context that is a ring": (
        "a, b = ValueError('a'), ValueError('b')\na.__context__, b.__context__ = b, a\nraise a"
    ),
    "a group of groups": "e = ValueError('x')\nfor _ in range(50): e = ExceptionGroup('g', [e])\nraise e",
    "a wide group": "raise ExceptionGroup('g', [ValueError('y' * 100) for _ in range(20_000)])",
    "notes": "e = ValueError('x')\nfor _ in range(10_000): e.add_note('n' * 100)\nraise e",
    "notes that raise": "class E(Exception):\n __notes__ = property(lambda s: 1/0)\nraise E",
    "a long chain": "e = None\nfor i in range(10_000):\n n = ValueError(i); n.__cause__ = e; e = n\nraise e",
    "base exception": "class E(BaseException): pass\nraise E('b')",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "system exit": "import sys\nsys.exit(3)",
    "exit with words": "exit('no data')",
    "a code that lies": "class C:\n __eq__ = lambda s, o: 1/0\nraise SystemExit(C())",
    "metaclass": (
        "class M(type):\n __name__ = property(lambda c: 1/0)\nclass E(Exception, metaclass=M): pass\nraise E"
    ),
    "a line of a megabyte": "x = '" + "y" * 100_000 + "'; 1/0",
    "repr of the result": "class A:\n def __repr__(s): raise ValueError('no')\nA()",
    "repr is no str": "class A:\n def __repr__(s): return 5\nA()",
}


@pytest.mark.threat("T-022")
@pytest.mark.parametrize("source", HOSTILE_EXCEPTIONS.values(), ids=HOSTILE_EXCEPTIONS.keys())
def test_hostile_exception_is_an_ordinary_bounded_outcome(session: Session, source: str) -> None:
    error = raised(session, source)
    assert 0 < len(error.type_name) <= 256
    assert len(error.guest_message) <= 5_000
    assert len(error.traceback) <= 20_000
    assert completed(session, "1+1").result == "2"


def test_str_subclass_with_its_own_methods_is_shown_plainly(session: Session) -> None:
    source = "class S(str):\n def __len__(s): return 0\nclass A:\n def __repr__(s): return S('shown')\nA()"
    assert completed(session, source).result == "shown"


# -- asyncio, threads, randomness ------------------------------------------------------------------


def test_top_level_await_and_asyncio_run_work(session: Session) -> None:
    completed(session, "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01)\n    return n * 2")
    assert completed(session, "await f(2)").result == "4"
    assert completed(session, "asyncio.run(f(3))").result == "6"
    assert completed(session, "await asyncio.gather(f(1), f(2), f(3))").result == "[2, 4, 6]"
    assert completed(session, "await asyncio.to_thread(lambda: 'done')").result == "'done'"


def test_a_task_that_waits_for_ever_is_an_error_and_not_a_hang(session: Session) -> None:
    error = raised(session, "import asyncio\nawait asyncio.Event().wait()")
    assert "deadlock" in error.guest_message
    assert completed(session, "import asyncio\nawait asyncio.sleep(0)\n'alive'").result == "'alive'"


def test_virtual_sleep_moves_the_clock_and_takes_no_time(session: Session) -> None:
    result = completed(
        session, "import time\nt = time.monotonic()\ntime.sleep(0.9)\nround(time.monotonic() - t, 2)"
    )
    assert result.result == "0.9"
    assert result.executed_ns < 500_000_000


def test_thread_pool_map_over_llm_query_is_one_batch(session: Session) -> None:
    host = Recorder()
    source = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(max_workers=4) as pool:\n"
        "    out = list(pool.map(llm_query, ['a', 'b', 'c']))\n"
        "out"
    )
    assert run_cell(session, source, host).result == "['A', 'B', 'C']"
    assert host.requests == [{"type": "llm_query_batch", "prompts": ["a", "b", "c"]}]


def test_thread_pool_submit_and_threads_run_at_once(session: Session) -> None:
    source = (
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor, as_completed\n"
        "seen = []\nt = threading.Thread(target=seen.append, args=(1,)); t.start(); t.join()\n"
        "with ThreadPoolExecutor(2) as pool:\n"
        "    fs = [pool.submit(llm_query, p) for p in 'xy']\n"
        "    seen += sorted(f.result() for f in as_completed(fs))\n"
        "seen"
    )
    assert completed(session, source).result == "[1, 'X', 'Y']"


def test_random_is_seeded_by_the_host(make_session: Callable[..., Session]) -> None:
    source = (
        "import random, os, uuid\n[random.random(), random.getrandbits(64), os.urandom(8), uuid.uuid4().hex]"
    )

    def drawn(stream: int, seed: int = 7) -> CellResult:
        return completed(make_session(entropy=seeded_entropy(seed, stream)), source)

    assert drawn(1).result == drawn(1).result
    assert drawn(1).result != drawn(2).result
    assert drawn(1).result != drawn(1, seed=8).result


def test_fresh_sessions_draw_different_numbers(make_session: Callable[..., Session]) -> None:
    drawn = {completed(make_session(), "import random\nrandom.random()").result for _ in range(5)}
    assert len(drawn) == 5


# -- what a cell cannot take away ------------------------------------------------------------------


FUNCTIONS = [
    *("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"),
    *("FINAL", "FINAL_VAR", "SHOW_VARS", "QueryError", "LimitExceeded", "ChildFailed", "DepthExceeded"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_session_is_the_cells_once_it_is_assigned(session: Session, name: str) -> None:
    own = completed(session, f"repr({name})").result
    taken = completed(session, f"{name} = 'mine'")
    assert taken.variables == (name,)
    assert f"the session's own is __{name}__" in taken.stderr
    later = completed(session, f"{name}, repr(__{name}__)")
    assert later.result == f"('mine', {own})"
    assert later.stderr == ""  # told once
    completed(session, f"del {name}, __{name}__")
    assert completed(session, f"repr({name}), {name} is __{name}__").result == f"({own}, True)"


def test_a_wrapped_llm_query_stays(session: Session) -> None:
    host = Recorder()
    source = (
        "ask, cache = llm_query, {}\ndef llm_query(p):\n    return cache.setdefault(p, p) and ask(p) + '!'"
    )
    completed(session, source)
    assert completed(session, "llm_query('a')", answer=host).result == "'A!'"
    assert completed(session, "cache").result == "{'a': 'a'}"


def test_an_error_does_not_hide_that_a_name_was_taken(session: Session) -> None:
    result = run_cell(session, "FINAL = 1\n1/0")
    assert result.outcome == "guest_exception"
    assert "__FINAL__" in result.stderr


@pytest.mark.parametrize("name", ["answer", "budget"])
def test_a_noun_is_the_cells_once_it_is_assigned(session: Session, name: str) -> None:
    before = completed(session, f"repr({name})").result
    assert completed(session, "SHOW_VARS()").result == "{}"
    assert completed(session, f"{name} = 'mine'").variables == (name,)
    assert completed(session, name).result == "'mine'"
    assert completed(session, "SHOW_VARS()").result == f"{{'{name}': 'str'}}"
    completed(session, f"del {name}")
    assert completed(session, f"repr({name})").result == before


def test_a_cleared_namespace_comes_back(session: Session) -> None:
    completed(session, "globals().clear()")
    assert completed(session, "llm_query('hi')").result == "'HI'"
    assert completed(session, "answer, __name__").result == "({'content': '', 'ready': False}, '__main__')"


@pytest.mark.parametrize(
    "break_it",
    [
        "import sys; sys.stdout.close()",
        "import sys; sys.stdout = None; sys.stderr = 5",
        "import sys; del sys.stdout",
        "import os; os.close(1); os.close(2)",
        "import sys; sys.stdout.detach()",
    ],
)
def test_a_closed_stdout_is_new_in_the_next_cell(session: Session, break_it: str) -> None:
    run_cell(session, break_it)
    assert completed(session, "print('back')").stdout == "back\n"


def test_a_replaced_main_comes_back(session: Session) -> None:
    completed(session, "import sys\nkept = 1\nsys.modules['__main__'] = None")
    assert completed(session, "import __main__\n__main__.kept").result == "1"


def test_classes_of_a_cell_can_be_pickled(session: Session) -> None:
    completed(session, "class P:\n    def __init__(s): s.v = 5")
    assert completed(session, "import pickle\npickle.loads(pickle.dumps(P())).v").result == "5"


def test_input_is_at_its_end(session: Session) -> None:
    assert raised(session, "input('? ')").type_name == "EOFError"


# -- requests and finishes -------------------------------------------------------------------------


def test_llm_query_returns_text_and_sends_what_was_given(session: Session) -> None:
    host = Recorder()
    assert run_cell(session, "llm_query('hé', model='m')", host).result == "'HÉ'"
    run_cell(session, "llm_query_batched(s for s in ['a', 'b'])", host)
    assert host.requests == [
        {"type": "llm_query", "prompt": "hé", "model": "m"},
        {"type": "llm_query_batch", "prompts": ["a", "b"]},
    ]


def test_rlm_query_sends_what_was_given(session: Session) -> None:
    host = Recorder()
    assert run_cell(session, "rlm_query('hé')", host).result == "'HÉ'"
    run_cell(session, "rlm_query('a', model='m', budget={'calls': 5, 'fuel': 10**30, 'children': -1})", host)
    batch = "rlm_query_batched(['a', 'b'], budget={'calls': 2.0, 'fuel': float('inf'), 'children': None})"
    assert run_cell(session, batch, host).result == "['A', 'B']"
    assert run_cell(session, "rlm_query_batched([])", host).result == "[]"
    assert host.requests == [
        {"type": "rlm_query", "prompt": "hé"},
        {
            "type": "rlm_query",
            "model": "m",
            "budget": {"calls": 5, "fuel": 10**16, "children": 0},
            "prompt": "a",
        },
        {"type": "rlm_query_batch", "budget": {"calls": 2, "fuel": 10**16}, "prompts": ["a", "b"]},
    ]


def test_a_budget_of_a_dimension_that_is_none_is_the_guests_mistake(session: Session) -> None:
    error = raised(session, "rlm_query('a', budget={'wishes': 3})")
    assert "there are calls, requests" in error.guest_message


def test_a_thread_pool_over_rlm_query_is_one_batch(session: Session) -> None:
    host = Recorder()
    source = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool: found = list(pool.map(rlm_query, ['a', 'b']))\n"
        "found"
    )
    assert run_cell(session, source, host).result == "['A', 'B']"
    assert [request["type"] for request in host.requests] == ["rlm_query_batch"]


def test_a_child_that_failed_gives_its_best_with_the_exception(session: Session) -> None:
    def failed(frame: bytes) -> bytes:
        error = {"type": "ChildFailed", "message": "out of turns", "partial": "a draft"}
        return json.dumps({"status": "failed", "error": error}).encode()

    source = "try: rlm_query('a')\nexcept ChildFailed as e: print(e, '/', e.partial)"
    assert run_cell(session, source, failed).stdout == "out of turns / a draft\n"


def test_an_answer_that_was_cut_off_is_a_str_that_says_so(session: Session) -> None:
    def cut(frame: bytes) -> bytes:
        told = {"status": "completed", "text": "in the mid", "cut": True}
        if b"batch" in frame:
            told = {"status": "completed", "items": [told, {"status": "completed", "text": "whole"}]}
        return json.dumps(told).encode()

    source = (
        "import json, pickle\n"
        "one, (two, whole) = llm_query('a'), llm_query_batched(['a', 'b'])\n"
        "kept = pickle.loads(pickle.dumps(one))\n"
        "print([isinstance(each, CutAnswer) for each in (one, two, whole, kept)], type(whole) is str)\n"
        "print(one == 'in the mid', {one: 1}['in the mid'], json.dumps([one]))\n"
        "print(repr(one), f'{one}!', one + '.')\n"
        "async def later(): return isinstance(await llm_query('c'), CutAnswer)\n"
        "import asyncio\n"
        "asyncio.run(later())"
    )
    ended = run_cell(session, source, cut)
    assert ended.stdout.splitlines() == [
        "[True, True, False, True] True",
        'True 1 ["in the mid"]',
        "'in the mid' in the mid! in the mid.",
    ]
    assert ended.result == "True"


def test_an_empty_batch_asks_nobody(session: Session) -> None:
    host = Recorder()
    assert run_cell(session, "llm_query_batched([])", host).result == "[]"
    assert host.requests == []


@pytest.mark.parametrize(
    "name",
    [
        *("BudgetExceeded", "QueryTimeout", "QueryCancelled", "ProviderError", "QueryError", "DepthExceeded"),
        "ChildFailed",
    ],
)
def test_failed_query_is_a_typed_exception_and_never_text(session: Session, name: str) -> None:
    def refuse(frame: bytes) -> bytes:
        return json.dumps({"status": "failed", "error": {"type": name, "message": "not now"}}).encode()

    error = raised(session, "text = llm_query('hi')", answer=refuse)
    assert (error.type_name, error.guest_message) == (name, "not now")
    caught = "try: llm_query('hi')\nexcept QueryError as e: print(type(e).__name__, e)"
    assert run_cell(session, caught, refuse).stdout == f"{name} not now\n"


def test_failed_item_of_a_batch_is_raised_with_the_other_results(session: Session) -> None:
    def half(frame: bytes) -> bytes:
        failed = {"status": "denied", "error": {"type": "BudgetExceeded", "message": "no more"}}
        return json.dumps(
            {"status": "completed", "items": [{"status": "completed", "text": "A"}, failed]}
        ).encode()

    assert raised(session, "llm_query_batched(['a', 'b'])", answer=half).type_name == "BudgetExceeded"
    source = "try: llm_query_batched(['a', 'b'])\nexcept QueryError as e: print(e.results)"
    assert run_cell(session, source, half).stdout == "['A', BudgetExceeded('no more')]\n"
    kept = run_cell(session, "llm_query_batched(['a', 'b'], return_exceptions=True)", half)
    assert kept.result == "['A', BudgetExceeded('no more')]"


def test_lone_surrogates_in_a_prompt_become_question_marks(session: Session) -> None:
    host = Recorder()
    assert run_cell(session, "llm_query('\\ud800é')", host).outcome == "completed"
    assert host.requests[0]["prompt"] == "?é"


def test_lone_surrogates_in_output_and_variables_are_shown_escaped(session: Session) -> None:
    result = completed(session, "globals()['v\\udc80'] = 1\nprint('\\ud800')")
    assert result.stdout == "\\ud800\n"
    assert result.variables == ("v?",)


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("FINAL(42)", "42"),
        ("value = [1, 2]\nFINAL_VAR('value')", "[1, 2]"),
        ("value = 'x'\nFINAL_VAR(' \"value\" ')", "x"),
        ("FINAL_VAR(7)", "7"),
        ("town = 'Bern'\nFINAL_VAR(town)", "Bern"),
        ("town = 'New York'\nFINAL_VAR(town)", "New York"),
        ("town = 'town'\nFINAL_VAR(town)", "town"),
        ("b = 'a'\na = 'the name is taken first'\nFINAL_VAR(b)", "the name is taken first"),
        ("FINAL_VAR('It is Bern.')", "It is Bern."),
        ("FINAL_VAR('42')", "42"),
        ("FINAL_VAR(' two words ')", " two words "),
        ("text = 'x' * 300\nFINAL_VAR(text)", "x" * 300),
        ("answer['content'] = 'draft'\nFINAL_VAR('answer')", "draft"),
        ("answer['content'] = 'draft'\nFINAL(answer)", "draft"),
        ("answer = llm_query\nanswer = 'Bern'\nFINAL_VAR(answer)", "Bern"),
        ("answer = ['Bern']\nFINAL_VAR('answer')", "['Bern']"),
        ("answer = {'town': 'Bern'}\nFINAL(answer)", "{'town': 'Bern'}"),
        ("budget = 900\nFINAL_VAR('budget')", "900"),
        ("FINAL(0)", "0"),
        ("FINAL(False)", "False"),
        ("answer['content'] = 0\nanswer['ready'] = True", "0"),
        ("answer['content'] = 'done'\nanswer['ready'] = True", "done"),
        ("answer = {'content': 5, 'ready': 1}", "5"),
        ("try: FINAL('in')\nexcept Exception: print('swallowed')", "in"),
    ],
)
def test_a_finish_reaches_the_host_once(session: Session, source: str, answer: str) -> None:
    host = Recorder()
    result = run_cell(session, source, host)
    assert (result.outcome, result.stdout) == ("completed", "")
    assert host.requests == [{"type": "finish", "answer": answer}]


def test_final_stops_the_cell_at_once(session: Session) -> None:
    assert completed(session, "print('before')\nFINAL(1)\nprint('after')").stdout == "before\n"


def test_final_var_of_an_unknown_name_says_what_helps(session: Session) -> None:
    host = Recorder()
    error = raised(session, "FINAL_VAR('nothing')", answer=host)
    assert error.type_name == "NameError"
    assert "SHOW_VARS()" in error.guest_message
    assert host.requests == []


@pytest.mark.parametrize(
    "name", ["Bern", "results[0]", "row.town", "f(1)", "a + b", "a-b", "x if y else z", "[a]"]
)
def test_final_var_of_what_could_be_meant_for_a_name_is_no_answer(session: Session, name: str) -> None:
    """Unless a variable holds it: then the value was passed and not the name."""
    host = Recorder()
    error = raised(session, f"FINAL_VAR({name!r})", answer=host)
    assert (error.type_name, host.requests) == ("NameError", [])
    assert "FINAL(value)" in error.guest_message
    run_cell(session, f"kept = {name!r}\nFINAL_VAR({name!r})", host)
    assert host.requests == [{"type": "finish", "answer": name}]


@pytest.mark.parametrize(
    "source",
    [
        "FINAL()", "FINAL(None)", "FINAL('')", "FINAL(' \\n')", "FINAL_VAR('answer')", "FINAL(answer)",
        "FINAL_VAR(None)", "nothing = None\nFINAL_VAR('nothing')", "answer['ready'] = True\nFINAL(answer)",
        "FINAL(budget)", "FINAL_VAR('llm_query')", "FINAL(FINAL)",
    ],
)  # fmt: skip
def test_nothing_is_no_answer(session: Session, source: str) -> None:
    host = Recorder()
    error = raised(session, source, answer=host)
    assert error.type_name == "ValueError"
    assert host.requests == []


@pytest.mark.parametrize("content", ["", "''", "None", "' \\n'"])
def test_ready_without_content_is_no_finish_and_says_so_once(session: Session, content: str) -> None:
    host = Recorder()
    result = run_cell(session, f"answer['content'] = {content or repr('')}\nanswer['ready'] = True", host)
    assert result.outcome == "completed"
    assert 'answer["content"] is empty' in result.stderr
    assert run_cell(session, "answer['content'] = 'a draft'", host).stderr == ""
    assert host.requests == []
    run_cell(session, "answer['ready'] = True", host)
    assert host.requests == [{"type": "finish", "answer": "a draft"}]


def test_drafts_are_reported_when_they_are_new(session: Session) -> None:
    def draft(source: str) -> str | None:
        return run_cell(session, source).draft

    assert draft("1") is None
    assert draft("answer['content'] = 'one'") == "one"
    assert draft("2") is None
    assert draft("answer['content'] = 'two'\n1/0") == "two"
    assert draft("answer['content'] = 3") == "3"
    assert draft("answer['content'] = 'x' * 100_000") == "x" * 32_728 + "... + [67272 chars...]"
    assert draft("answer['content'] = '\\x01' * 100_000") is not None
    assert draft("answer['content'] = object()") is None
    assert draft("answer['content'] = '\\ud800'") == "?"
    assert draft("answer = 'mine'") is None


def test_an_answer_that_is_not_ready_is_no_finish(session: Session) -> None:
    host = Recorder()
    run_cell(session, "answer['content'] = 'draft'", host)
    assert host.requests == []
    assert completed(session, "answer['content']").result == "'draft'"


# -- misuse by the owner ---------------------------------------------------------------------------


def test_source_over_the_cap_is_a_usage_error_and_the_session_lives(session: Session) -> None:
    with pytest.raises(UsageError, match="source_bytes_max is 100"):
        run_cell(session, "#" * 101, source_bytes_max=100)
    assert run_cell(session, "#" * 98 + "\n1", source_bytes_max=100).result == "1"


def test_source_longer_than_the_inbox_runs(session: Session) -> None:
    assert completed(session, "x = 1\n" * 20_000 + "x").result == "1"


def test_a_session_busy_with_a_cell_refuses_another(session: Session) -> None:
    from rlm_wasm.protocol.cell import Cell
    from tests.support.sandbox_facts import cell_limits

    first = session.run(Cell("llm_query('a')", cell_limits()))
    next(first)
    with pytest.raises(UsageError, match="busy"):
        next(session.run(Cell("1", cell_limits())))
    first.close()
    assert session.lost


def test_a_closed_session_refuses_cells_and_closing_again_is_harmless(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(UsageError, match="lost"):
        run_cell(session, "1")
