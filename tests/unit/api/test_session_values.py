"""Values into a session and out of it: the same at both ends, bounded, and named where they have no form."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_wasm import Policy, Runtime, Sandbox, SandboxSession
from rlm_wasm.errors import (
    BoundaryViolation,
    GuestError,
    MemoryExceeded,
    NoJsonForm,
    UsageError,
    ValueTooLarge,
)
from tests.support.runtime_facts import Events, Script, small_policy
from tests.unit.test_values import JSON, deep

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

CAP = 20_000
ROWS = [{"a": 1, "b": [1.5, None, True, "é\ud800"]}, {"": -(10**30)}]


def policy(isolation: str, **sandbox: Any) -> Policy:
    box = {"isolation": isolation, "require_lockdown": False} | sandbox
    return small_policy(sandbox=box, cell={"result_bytes_max": CAP})


@pytest.fixture(params=["inline", "session"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[SandboxSession]:
    async with Sandbox(policy(request.param)) as box, box.session() as made:
        yield made


@pytest.mark.parametrize(
    "value",
    [ROWS, "té\U0001f600xt\ud800", b"\0\xff", "", b"", 7, -0.5, None, True, [], {}, 10**400, deep(99)],
    ids=lambda value: repr(value)[:20],
)
async def test_what_goes_in_comes_out_the_same(session: SandboxSession, value: Any) -> None:
    await session.set("x", value)
    for back in (await session.get("x"), (await session.exec("x")).value):
        assert back == value
        assert type(back) is type(value)


async def test_in_the_guest_it_is_the_guests_own(session: SandboxSession) -> None:
    await session.set("rows", (ROWS[0], date(2026, 1, 2)))
    result = await session.exec("rows[0]['b'].append(len(rows)); [type(each).__name__ for each in rows]")
    assert result.value == ["dict", "str"]
    assert (await session.get("rows"))[0]["b"][-1] == 2  # type: ignore[index, call-overload]
    assert (await session.exec("del rows")).outcome == "completed"
    with pytest.raises(UsageError, match="no variable rows"):
        await session.get("rows")


async def test_a_tuple_a_subclass_and_a_row_of_a_cell_come_as_plain_values(session: SandboxSession) -> None:
    await session.exec(
        "import collections, enum\nclass N(enum.IntEnum): ONE = 1\n"
        "P = collections.namedtuple('P', 'a b')\nclass S(str): __slots__ = ()\n"
        "x = (P(1, N.ONE), collections.Counter('aab'), S('s'), collections.OrderedDict(k=()))"
    )
    assert await session.get("x") == [[1, 1], {"a": 2, "b": 1}, "s", {"k": []}]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{1, 2}", "value is a set"),
        ("{'a': [0, b'x']}", r"value\['a'\]\[1\] is a bytes"),
        ("[float('nan')]", r"value\[0\] is nan"),
        ("[{'deep': float('-inf')}]", r"value\[0\]\['deep'\] is -inf"),
        ("{1: 2}", "key that is a int"),
        ("x = []; x.append(x); x", "holds itself"),
        ("x = {}\nx['x'] = x\nx", "holds itself"),
        ("lambda: 0", "is a function"),
        ("f = lambda: [10 ** 5000]\nclass L(list):\n    __repr__ = lambda self: 'L'\nL(f())", "ValueError"),
    ],
    ids=lambda value: value[:20],
)
async def test_what_has_no_json_form_is_an_error_that_says_which_part(
    session: SandboxSession, source: str, said: str
) -> None:
    result = await session.exec(source)
    assert result.outcome == "completed"
    with pytest.raises(NoJsonForm, match=said):
        result.value  # noqa: B018 - it raises
    assert (await session.exec("1")).value == 1


@pytest.mark.parametrize("source", ["x = 'a' * 65_537\nx", "x = list(range(70_000))\nx"])
async def test_a_value_that_no_result_has_room_for_is_to_be_had_by_its_name(source: str) -> None:
    policy = small_policy(cell={"result_bytes_max": 4 << 20})
    async with Sandbox(policy) as sandbox, sandbox.session() as session:
        result = await session.exec(source)
        with pytest.raises(ValueTooLarge, match="65_536") as refused:
            result.value  # noqa: B018 - it raises
        assert "session.get(name)" in str(refused.value.hint)
        assert len(await session.get("x")) >= 65_537  # type: ignore[arg-type]


async def test_what_goes_in_without_a_json_form_leaves_the_session_as_it_was(session: SandboxSession) -> None:
    await session.set("x", 1)
    for value in ({1}, math.nan, [b""], {1: 2}, deep(100)):
        with pytest.raises(NoJsonForm, match=r"^x"):
            await session.set("x", value)
    for name in ("a b", "class", "llm_query", "json:x"):
        with pytest.raises(UsageError):
            await session.set(name, 1)
    for name in ("a b", "class", "x.y", "x)", "", "1"):
        with pytest.raises(UsageError, match="not a variable name"):
            await session.get(name)
    assert await session.get("x") == 1


async def test_a_value_comes_whole_or_not_at_all(session: SandboxSession) -> None:
    await session.exec(f"fits, longer = 'a' * {CAP - 1}, 'a' * {CAP}; rows = list(range({CAP}))")
    assert await session.get("fits") == "a" * (CAP - 1)
    for name in ("longer", "rows"):
        with pytest.raises(ValueTooLarge) as refused:
            await session.get(name)
        assert refused.value.size > CAP
    with pytest.raises(ValueTooLarge):
        (await session.exec("longer")).value  # noqa: B018 - it raises
    assert await session.get("fits") == "a" * (CAP - 1)


async def test_a_cell_without_a_value_has_none_and_one_that_failed_raises_why(
    session: SandboxSession,
) -> None:
    assert (await session.exec("x = 1")).value is None
    assert (await session.exec("None")).value is None
    failed = await session.exec("x = 2; 1 / 0")
    with pytest.raises(GuestError, match="ZeroDivisionError"):
        failed.value  # noqa: B018 - it raises


@pytest.mark.threat("T-191")
async def test_a_guest_that_rewrites_what_tells_its_values_harms_itself_only(session: SandboxSession) -> None:
    """Whatever it sends is a value, or one of the errors that are listed."""
    await session.exec("import _rlm, rlm_values, json")
    for frame in ("b'x'", "b'j'", "b'j[NaN]'", "b'j' + b'[' * 15_000", "b't\\xff'", "b'j' + b'9' * 9_000"):
        for source in (
            f"_rlm.emit(6, {frame}); None",
            f"rlm_values.tell = lambda *_: _rlm.emit(6, {frame}); 1",
        ):
            sent = await session.exec(source)
            assert sent.error is None
            with pytest.raises(BoundaryViolation):
                sent.value  # noqa: B018 - it raises
        with pytest.raises(BoundaryViolation):
            await session.get("json")
    await session.exec("rlm_values.tell = lambda *_: None")
    with pytest.raises(NoJsonForm, match="told no value"):
        await session.get("json")
    await session.exec("del rlm_values.tell")
    with pytest.raises(GuestError):
        await session.get("json")
    assert (await session.exec("6 * 7")).result is not None


async def test_a_value_that_the_guest_has_no_room_for_costs_nothing_but_itself() -> None:
    async with Sandbox(policy("inline", memory_bytes_max=64 << 20)) as box, box.session() as session:
        await session.set("x", 1)
        with pytest.raises(MemoryExceeded):
            await session.set("rows", [[] for _ in range(3_000_000)])
        assert await session.get("x") == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=st.lists(JSON, min_size=1, max_size=4))
def test_any_json_value_goes_there_and_back(value: Any) -> None:
    with Sandbox(policy("inline")).sync() as box, box.session() as session:
        session.set("x", value)
        assert session.get("x") == value
        assert session.exec("x").value == value


@pytest.mark.parametrize(
    ("context", "shown"),
    [
        ([{"role": "user"}, {"role": "system"}], "list 2 user"),
        ({"context": {"role": "user", "1": 2}}, "dict 2 user"),
        ({"context": [1], "more": {"k": (1, 2)}}, "list 1 [1, 2]"),
        (7, "int 7"),
    ],
    ids=["a list", "a dict by name", "two", "an int"],
)
async def test_a_context_of_any_json_value_is_that_value_in_the_guest(
    tmp_path: Path, context: Any, shown: str
) -> None:
    code = (
        "c = context\n"
        "kind = type(c).__name__\n"
        "last = more['k'] if 'more' in globals() else (c[0] if kind == 'list' else c).get('role') "
        "if kind != 'int' else ''\n"
        "FINAL(f'{kind} {c if kind == \"int\" else len(c)} {last}'.strip())"
    )
    events = Events()
    async with Runtime(small_policy(), model=Script(tmp_path).reply("root", code).spec) as runtime:
        result = await runtime.ask("?", context, sinks=[events.append])
    assert result.answer == shown
    (described,) = events.of("run_described")
    assert described["context_types"] == [shown.split()[0], "dict"][: len(described["contexts"])]  # type: ignore[arg-type]


async def test_a_context_that_has_no_json_form_or_no_name_says_what_to_do(tmp_path: Path) -> None:
    async with Runtime(small_policy(), model=Script(tmp_path).reply("root", "FINAL(1)").spec) as runtime:
        with pytest.raises(NoJsonForm, match=r"context\[1\] is a set"):
            await runtime.ask("?", [1, {2}])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="not a variable name") as refused:
            await runtime.ask("?", {"two words": 1})
        assert "{'context': mapping}" in str(refused.value.hint)
