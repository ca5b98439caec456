"""Functions of the program in a sandbox: typed, bounded, allowed by the policy, and never more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import anyio
import anyio.lowlevel
import pydantic
import pytest

from rlm_wasm import Policy, Sandbox, SandboxSession, Tool, ToolLike, tool
from rlm_wasm.errors import ToolError, UsageError
from tests.support.runtime_facts import small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


def policy(isolation: str = "inline", **sections: Any) -> Policy:
    sections["tools"] = {"allow": ["*"], **sections.get("tools", {})}
    return small_policy(sandbox={"isolation": isolation, "require_lockdown": False}, **sections)


async def run(tools: list[ToolLike], source: str, of: Policy | None = None) -> Any:
    """Return the value of a cell; with it its session works on."""
    async with Sandbox(of or policy(), tools=tools) as box, box.session() as session:
        result = await session.exec(source)
        result.raise_for_outcome()
        assert (await session.exec("1 + 1")).value == 2
        return result.value


def raised(call: str) -> str:
    """Return a cell that tells what a call raises: its type, the types it is one of, and its message."""
    return (
        f"try:\n    {call}\n    told = None\nexcept Exception as e:\n"
        "    told = [type(e).__name__, isinstance(e, ToolError), str(e)]\ntold"
    )


@tool
async def weather(city: str, days: int = 1, *, unit: Literal["C", "F"] = "C") -> dict[str, Any]:
    """Return the forecast of a city.

    It is always fine.
    """
    await anyio.lowlevel.checkpoint()
    return {"city": city, "days": days, "unit": unit}


def double(number: int) -> int:
    """Return twice a number."""
    return number * 2


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_tool_is_a_function_of_the_session_however_it_is_called(isolation: str) -> None:
    source = (
        "import asyncio\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "async def both():\n"
        "    return await asyncio.gather(weather('C'), double(4))\n"
        "def begun(n):\n"
        "    made = double(n)\n"
        "    return made + 1\n"
        "with ThreadPoolExecutor() as pool:\n"
        "    pooled = list(pool.map(double, [5, 6])) + list(pool.map(begun, [5, 6]))\n"
        "[weather('A')['days'], weather('B', 2, unit='F'), await double(3), await both(), pooled,\n"
        " double.map([1, 2, 3]), [await weather(c, days=3) for c in 'xy'][1]['days']]"
    )
    assert await run([weather, double], source, policy(isolation)) == [
        1,
        {"city": "B", "days": 2, "unit": "F"},
        6,
        [{"city": "C", "days": 1, "unit": "C"}, 8],
        [10, 12, 11, 13],
        [2, 4, 6],
        3,
    ]


async def test_code_sees_its_signature_its_docstring_and_its_name() -> None:
    source = (
        "import inspect, io, contextlib\n"
        "told = io.StringIO()\n"
        "with contextlib.redirect_stdout(told):\n    help(weather)\n"
        "[str(inspect.signature(weather)), weather.__doc__, weather.__name__, told.getvalue(), SHOW_VARS()]"
    )
    signature, doc, name, told, variables = await run([weather], source)
    assert signature == "(city: str, days: int = 1, *, unit: Literal['C', 'F'] = 'C') -> dict[str, Any]"
    assert (doc, name) == ("Return the forecast of a city.\n\nIt is always fine.", "weather")
    assert "weather(city: str, days: int = 1, *, unit: Literal['C', 'F'] = 'C')" in told
    assert "    It is always fine." in told
    assert "weather" not in variables


async def test_what_is_awaited_of_several_tools_is_under_way_together() -> None:
    here, both = anyio.Event(), anyio.Event()

    async def first() -> str:
        here.set()
        await both.wait()
        return "first"

    async def second() -> str:
        await here.wait()
        both.set()
        return "second"

    assert await run([first, second], "import asyncio\nawait asyncio.gather(first(), second())") == [
        "first",
        "second",
    ]


def test_tools_of_a_sandbox_that_is_not_async_wait_on_threads_side_by_side() -> None:
    three = threading.Barrier(3, timeout=60)

    def meet(name: str) -> str:
        three.wait()
        return name.upper()

    with Sandbox(policy(), tools=[meet]).sync() as box, box.session() as session:
        assert session.exec("meet.map(['a', 'b', 'c'])").value == ["A", "B", "C"]
    assert Sandbox(policy(), tools=[double]).exec_sync("double(4)").value == 8


@dataclass
class Point:
    x: int
    y: int = 0


class Place(pydantic.BaseModel):
    name: str
    at: Point


async def test_types_of_the_program_come_as_what_they_are_and_go_as_json() -> None:
    seen: list[object] = []

    def note(
        place: Place, day: date, tags: set[str], more: Annotated[int, pydantic.Field(gt=3)] = 4
    ) -> Place:
        seen.extend([place, day, tags, more])
        return place

    source = "import datetime\nnote({'name': 'n', 'at': {'x': 1}}, datetime.date(2024, 2, 3), {'a'}, more=5)"
    assert await run([note], source) == {"name": "n", "at": {"x": 1, "y": 0}}
    assert seen == [Place(name="n", at=Point(1)), date(2024, 2, 3), {"a"}, 5]


@pytest.mark.threat("T-340")
@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        ("weather(7)", "ToolArgumentError", "city: Input should be a valid string"),
        (
            "weather('x', days='many')",
            "ToolArgumentError",
            "days: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("weather('x', unit='K')", "ToolArgumentError", "unit: Input should be 'C' or 'F'"),
        ("weather()", "TypeError", "weather() missing a required argument: 'city'"),
        ("weather('x', wind=1)", "TypeError", "weather() got an unexpected keyword argument 'wind'"),
        ("weather(object())", "TypeError", "weather(): value['city'] is a object, which has no JSON form"),
        ("weather(float('nan'))", "TypeError", "weather(): value['city'] is nan, which has no JSON form"),
        ("weather(b'x')", "TypeError", "weather(): value['city'] is a bytes, which has no JSON form"),
        ("weather.map('xyz')", "TypeError", "weather.map takes lists of arguments, not a str"),
    ],
)
async def test_arguments_that_a_tool_does_not_take_are_refused_before_it_is_called(
    call: str, kind: str, says: str
) -> None:
    called: list[str] = []

    async def watched(city: str, days: int = 1, *, unit: Literal["C", "F"] = "C") -> None:
        called.append(city)

    told = await run([Tool(watched, name="weather")], raised(call))
    assert told == [kind, kind.startswith("Tool"), says]
    assert called == []


SECRET = "/srv/app/secret.py"


@pytest.mark.threat("T-341")
async def test_an_error_of_a_tools_author_is_told_and_any_other_is_a_fixed_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses() -> None:
        raise ToolError("no such city: try Paris")

    def fails() -> None:
        raise OSError(SECRET)

    async def ends() -> None:
        raise SystemExit(SECRET)

    async def is_late() -> None:
        raise TimeoutError(SECRET)

    tools = [refuses, fails, ends, is_late]
    source = "\n".join(
        f"try:\n    {each.__name__}()\nexcept ToolError as e:\n    said.append([type(e).__name__, str(e)])"
        for each in tools
    )
    with caplog.at_level(logging.ERROR, logger="rlm_wasm.tools"):
        assert await run([*tools], f"said = []\n{source}\nsaid") == [
            ["ToolError", "no such city: try Paris"],
            ["ToolError", "the tool fails failed"],
            ["ToolError", "the tool ends failed"],
            ["ToolError", "the tool is_late failed"],
        ]
    # The program is told what the guest is not.
    assert caplog.text.count(SECRET) == 3


class Thing:
    pass


@pytest.mark.threat("T-341")
@pytest.mark.parametrize(
    "made",
    [Thing(), b"bytes", {1: 2}, float("nan"), (each for each in "x"), {"a": Thing()}],
    ids=["an object", "bytes", "a number as a key", "no number", "a generator", "an object inside"],
)
async def test_what_has_no_json_form_is_no_result(made: object) -> None:
    def give() -> object:
        return made

    told = await run([give], raised("give()"))
    assert told == ["ToolError", True, "the tool give gave something that has no JSON form"]


@pytest.mark.threat("T-340")
@pytest.mark.parametrize(
    "make", [lambda: "x" * 100_000_000, lambda: [[0] * 1_000] * 100_000], ids=["a text", "lists"]
)
async def test_a_result_of_a_hundred_megabytes_is_refused_before_it_is_all_looked_at(
    make: Callable[[], object],
) -> None:
    def give() -> object:
        return make()

    kind, _, says = await run([give], raised("give()"))
    assert kind == "LimitExceeded"
    assert says == "the result of the tool give is too large; tools.result_bytes_max allows 1048576"


@pytest.mark.threat("T-340")
async def test_arguments_that_are_too_large_or_too_deep_are_refused_undecoded() -> None:
    def take(value: Any) -> int:
        return 1

    small = policy(tools={"arguments_bytes_max": 1_000})
    assert await run([take], raised("take('x' * 2_000)"), small) == [
        "LimitExceeded",
        False,
        "arguments of 2012 bytes; tools.arguments_bytes_max allows 1000",
    ]
    source = (
        "import rlm_queries\n"
        "deep = '{\"value\":' + '[' * 5_000 + ']' * 5_000 + '}'\n"
        "r = rlm_queries._ask({'type': 'tool_call', 'tool': 'take', 'arguments': deep})\n"
        "[r['status'], r['error']['type'], r['error']['message']]"
    )
    assert await run([take], source) == [
        "denied",
        "ToolArgumentError",
        "the arguments are nested deeper than 100",
    ]


@pytest.mark.threat("T-340")
@pytest.mark.parametrize(
    "text",
    ["", "7", "[]", "nothing", '{"value": NaN, "x": 1}', '{"other": 1}', "{}", '{"value":1}{}', "\\ud800"],
)
async def test_whatever_a_guest_sends_as_arguments_is_refused_or_read(text: str) -> None:
    def take(value: int) -> int:
        return 1

    source = (
        "import rlm_queries\n"
        f"r = rlm_queries._ask({{'type': 'tool_call', 'tool': 'take', 'arguments': {text!r}}})\n"
        "[r['status'], r['error']['type']]"
    )
    assert await run([take], source) == ["denied", "ToolArgumentError"]


@pytest.mark.threat("T-342")
async def test_a_tool_that_is_not_there_is_a_typed_error_whatever_the_guest_calls_it() -> None:
    source = (
        "import rlm_queries\n"
        "def ask(t):\n"
        "    return rlm_queries._ask({'type': 'tool_call', 'tool': t, 'arguments': '{}'})['error']\n"
        "[ask('other'), ask('__class__')]"
    )
    assert await run([double], source) == [
        {"type": "ToolError", "message": "this session has no tool 'other'; it has double"},
        {"type": "ToolError", "message": "this session has no tool '__class__'; it has double"},
    ]


@pytest.mark.threat("T-342")
async def test_a_name_that_no_tool_can_have_ends_the_cell_and_not_the_session() -> None:
    async with Sandbox(policy(), tools=[double]) as box, box.session() as session:
        long = (
            "import rlm_queries\nrlm_queries._ask({'type': 'tool_call', 'tool': 'x' * 65, 'arguments': '{}'})"
        )
        assert (await session.exec(long)).outcome.value == "boundary_violation"
        assert (await session.exec("double(2)")).value == 4


@pytest.mark.threat("T-340")
async def test_a_call_in_a_loop_without_an_end_meets_the_cells_requests() -> None:
    calls = 0

    async def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    source = (
        "made, kinds = 0, set()\n"
        "for _ in range(40):\n"
        "    try:\n        made = count()\n    except Exception as e:\n        kinds.add(type(e).__name__)\n"
        "[made, sorted(kinds)]"
    )
    assert await run([count], source) == [16, ["BudgetExceeded"]]
    assert calls == 16
    async with Sandbox(policy(), tools=[count]) as box, box.session() as session:
        ended = await session.exec("for _ in range(10_000):\n    count()")
        assert "BudgetExceeded" in str(ended.error)
        flood = "for _ in range(10_000):\n    try:\n        count()\n    except Exception:\n        pass"
        assert (await session.exec(flood)).outcome.value == "requests_exceeded"
        assert (await session.exec("count()")).value == calls


async def test_a_tool_has_so_many_calls_in_a_session_and_so_many_by_the_policy() -> None:
    async def count() -> str:
        return "counted"

    twice = Tool(count, name="twice", calls_max=2)
    thrice = Tool(count, name="thrice", calls_max=9)
    capped = policy(tools={"caps": {"thrice": {"calls_max": 3}}})
    async with Sandbox(capped, tools=[twice, thrice]) as box, box.session() as session:
        for name, most in (("twice", 2), ("thrice", 3)):
            made = [(await session.exec(raised(f"{name}()"))).value for _ in range(most + 1)]
            assert made[:most] == [None] * most
            assert made[most][0] == "BudgetExceeded"
            assert f"tools.caps.{name}.calls" in made[most][2]
        async with box.session() as other:  # counted for itself
            assert (await other.exec("twice()")).value == "counted"


@pytest.mark.threat("T-343")
async def test_a_tool_that_hangs_ends_in_time_and_keeps_its_place_until_it_comes_back() -> None:
    released, back = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        released.wait(60)
        back.release()

    slow = Tool(hang, name="slow", timeout_ms=50, parallel_max=2)
    message = "the tool slow did not come back within 50 ms"
    async with Sandbox(policy(), tools=[slow]) as box, box.session() as session:
        told = (await session.exec("[str(e) for e in slow.map([], return_exceptions=True)]")).value
        assert told == []
        for _ in range(3):  # the third waits for a place in vain
            assert (await session.exec(raised("slow()"))).value == ["ToolTimeout", True, message]
        assert slow.places.taken == 2
    # The sandbox is closed, whoever hangs.
    released.set()
    assert back.acquire(timeout=60)
    assert back.acquire(timeout=60)
    with anyio.fail_after(60):
        while slow.places.taken:
            await anyio.lowlevel.checkpoint()


@pytest.mark.threat("T-343")
async def test_an_async_tool_is_cancelled_with_its_cell_and_its_session_lives() -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with Sandbox(policy(), tools=[wait, double]) as box, box.session() as session:
        async with anyio.create_task_group() as tasks:

            async def cell() -> None:
                assert (await session.exec("wait()")).outcome.value == "cancelled"

            tasks.start_soon(cell)
            await begun.wait()
            session.interrupt()
        assert ended.is_set()
        assert (await session.exec("double(3)")).value == 6


async def test_no_more_calls_are_under_way_than_a_tool_the_policy_or_a_cap_allows() -> None:
    now, most = 0, 0

    async def busy(number: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        now -= 1
        return number

    async def highest(made: Tool[..., Any], of: Policy) -> int:
        nonlocal most
        most = 0
        assert await run([made], "busy.map(list(range(12)))", of) == list(range(12))
        return most

    wide = {"parallel_max": 5}
    assert await highest(Tool(busy, parallel_max=3), policy(tools=wide)) == 3
    assert await highest(Tool(busy, parallel_max=9), policy(tools=wide)) == 5
    assert await highest(Tool(busy), policy(tools={"caps": {"busy": {"parallel_max": 2}}})) == 2


async def test_a_tool_may_run_another_session_and_waiting_for_itself_ends_in_time() -> None:
    box: Sandbox
    session: SandboxSession

    async def inner(source: str) -> Any:
        async with box.session() as other:
            return (await other.exec(source)).value

    async def again(source: str) -> Any:
        return (await session.exec(source)).value

    narrow = Tool(inner, name="narrow", parallel_max=1, timeout_ms=50)
    async with Sandbox(policy(), tools=[inner, narrow, again]) as box, box.session() as session:
        assert (await session.exec("inner('40 + 2')")).value == 42
        # Its one place is taken by itself.
        assert (await session.exec(raised("narrow('narrow(\"1\")')"))).value[0] == "ToolTimeout"
        assert (await session.exec(raised("again('1')"))).value == [
            "ToolError",
            True,
            "the tool again failed",
        ]
        assert (await session.exec("2 + 2")).value == 4


async def test_a_name_that_a_cell_takes_is_the_cells_and_the_tool_is_still_there() -> None:
    async with Sandbox(policy(), tools=[double]) as box, box.session() as session:
        told = await session.exec("def double(n):\n    return 'mine'")
        assert (
            told.stderr == "note: double is what you assigned, from now on; the session's own is __double__\n"
        )
        assert (await session.exec("[double(1), __double__(1)]")).value == ["mine", 2]
        assert (await session.exec("del double")).error is None
        assert (await session.exec("double(1)")).value == 2


@pytest.mark.threat("T-342")
async def test_a_cell_may_have_tools_of_its_own() -> None:
    def shout(text: str) -> str:
        return text.upper()

    async def other(number: int) -> int:
        return number * 3

    async with Sandbox(policy(), tools=[double]) as box, box.session() as session:
        three = Tool(other, name="double")
        both = await session.exec("kept = shout\n[shout('a'), double(1)]", tools=[shout])
        assert both.value == ["A", 2]
        assert (await session.exec("['shout' in globals(), double(1)]", tools=[three])).value == [False, 3]
        assert (await session.exec(raised("shout('a')"))).value[0] == "NameError"
        # Whoever keeps the function still has no right to the call.
        assert (await session.exec(raised("kept('a')"))).value[0] == "ToolError"
        assert (await session.exec("double(1)")).value == 2
    async with Sandbox(policy()) as box, box.session() as session:
        assert (await session.exec("double(2)", tools=[double])).value == 4
        assert (await session.exec("'double' in globals(), 'ToolError' in globals()")).value == [False, False]


async def test_a_fork_has_the_tools_of_its_sandbox() -> None:
    async with Sandbox(policy(), tools=[double]) as box, box.session() as session:
        await session.exec("kept = double(1)")
        snapshot = await session.snapshot()
        async with box.session(snapshot=snapshot) as fork:
            assert (await fork.exec("double(kept)")).value == 4


@pytest.mark.threat("T-342")
async def test_a_tool_that_the_policy_does_not_allow_is_an_error_at_once() -> None:
    strict = small_policy()
    with pytest.raises(UsageError, match="the policy allows nobody the tool double") as caught:
        Sandbox(strict, tools=[double])
    assert "tools.allow" in str(caught.value.hint)
    async with Sandbox(strict) as box, box.session() as session:
        with pytest.raises(UsageError, match="the policy does not allow the tool double"):
            await session.exec("1", tools=[double])
        assert (await session.exec("2")).value == 2


@pytest.mark.threat("T-342")
async def test_a_tenant_has_the_tools_that_the_policy_names_for_it_and_no_other_exists_for_it() -> None:
    def search() -> str:
        return "found"

    named = policy(tools={"allow": ["double"], "tenants": {"acme": ["search"]}})
    async with Sandbox(named, tools=[double, search]) as box:
        for tenant, mine, others in (("", "double(2)", "search"), ("acme", "search()", "double")):
            async with box.session(tenant=tenant) as session:
                assert (await session.exec(mine)).value in (4, "found")
                assert (await session.exec(f"{others!r} in globals()")).value is False
                frame = {"type": "tool_call", "tool": others, "arguments": "{}"}
                source = f"import rlm_queries\nrlm_queries._ask({frame!r})['error']['type']"
                assert (await session.exec(source)).value == "ToolError"
        async with box.session(tenant="acme") as session:
            with pytest.raises(UsageError, match="does not allow the tenant 'acme' the tool double"):
                await session.exec("1", tools=[double])


async def test_where_no_tool_and_no_model_is_every_frame_is_denied() -> None:
    frame = {"type": "tool_call", "tool": "x", "arguments": "{}"}
    source = f"import rlm_queries\nrlm_queries._ask({frame!r})['status']"
    async with Sandbox(policy()) as box, box.session() as session:
        assert (await session.exec(source)).value == "denied"


def _variadic(*numbers: int) -> None: ...


def _hinted(what: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def _odd(what: Callable[[Thing], Thing], other: Thing) -> None: ...


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tool(7), "a tool is a function, not a int"),
        (lambda: tool(_variadic), "the name _variadic|is a name of Python's"),
        (lambda: Tool(_variadic, name="variadic"), "any number of arguments"),
        (lambda: Tool(_hinted, name="hinted"), "a type hint that means nothing"),
        (lambda: Tool(_odd, name="odd"), "no JSON can be checked against"),
        (lambda: tool(lambda: 1), "is no name of a function"),
        (lambda: Tool(double, name="llm_query"), "a name of Python's or the session's own"),
        (lambda: Tool(double, name="print"), "a name of Python's or the session's own"),
        (lambda: Tool(double, name="x" * 65), "at most 64 characters"),
        (lambda: tool(timeout_ms=0)(double), "timeout_ms of the tool double is an int from 1"),
        (lambda: tool(calls_max=True)(double), "calls_max of the tool double"),
        (lambda: tool(cost_microdollars=-1)(double), "cost_microdollars of the tool double"),
        (lambda: Sandbox(policy(), tools=[double, double]), "two tools are called double"),
        (lambda: Sandbox(policy(), tools=double), "tools are several, such as a list"),
        (lambda: Sandbox(policy(), tools=[7]), "a tool is a function"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_where_it_is_made(make: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


async def test_a_tool_is_still_the_function_for_its_own_program() -> None:
    assert Tool(double)(4) == 8
    assert (await weather("x"))["city"] == "x"
    assert weather.json_schema["required"] == ["city"]
    assert set(weather.json_schema["properties"]) == {"city", "days", "unit"}
    assert repr(weather).startswith("<tool weather(city: str, days: int = 1, *, unit: ")
