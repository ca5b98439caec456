"""Forks of a live session: whole, apart from each other, all or none, with streams that repeat."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import CellResult, Policy, Sandbox, SandboxSession
from rlm_wasm.api.fork_streams import fork_stream
from rlm_wasm.errors import Overloaded, UsageError
from rlm_wasm.host.input_file import InputFile
from tests.support.machine_grade import POLICY_HERE
from tests.support.runtime_facts import small_policy

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]

ISOLATIONS = ["inline", "shared", "tenant", "session"]
DRAW = "import os, random, uuid\n[random.random(), os.urandom(8).hex(), str(uuid.uuid4())]"
WORKERS = {"workers_max": 3, "sessions_max": 3, "sessions_per_worker_max": 3}
ONE_TENANT = {"share_percent": 100}


def policy(isolation: str = "inline", **sections: dict[str, Any]) -> Policy:
    sandbox = {"isolation": isolation, "require_lockdown": False} | sections.pop("sandbox", {})
    return small_policy(sandbox=sandbox, **sections)


def sessions(box: Sandbox) -> int:
    """How many sessions there are in the sandbox's workers."""
    found = box._worker
    return found._loop.open_sessions if hasattr(found, "_loop") else found.sessions  # type: ignore[attr-defined]


async def settled(box: Sandbox, count: int) -> None:
    """Wait until there are so many: what was being made when nobody wanted it any more is closed soon."""
    with anyio.fail_after(60):
        while sessions(box) != count:
            await anyio.lowlevel.checkpoint()


async def value(session: SandboxSession, source: str) -> object:
    result = await session.exec(source)
    assert result.error is None, result.error
    return result.value


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_forks_have_all_of_a_session_and_it_lives_on(isolation: str, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("one\ntwo\n")
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.load("large", InputFile(tmp_path / "large.txt"))
        await session.load("small", "kept by the host", file="small.txt")
        await session.write_file("/notes/a.txt", b"written")
        await session.exec("seen = [1]; walk = iter('abc'); next(walk)\ndef f(): return len(seen)")
        async with session.fork(3) as forks:
            assert len(forks) == 3
            assert list(forks) == [forks[0], *forks[1:]]
            for fork in forks:
                assert await value(fork, "seen.append(2); [f(), next(walk)]") == [2, "b"]
                assert await fork.read_file("/notes/a.txt") == b"written"
                read = "[large[4:7], open('/inputs/large.txt').read(), open('/inputs/small.txt').read()]"
                assert await value(fork, read) == ["two", "one\ntwo\n", "kept by the host"]
        assert await value(session, "[f(), next(walk), large[:3]]") == [1, "b", "one"]


@pytest.mark.threat("T-370")
@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_no_fork_sees_what_another_one_or_its_origin_writes(isolation: str) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.exec("state = bytearray(1 << 20); names = {'origin'}")
        async with session.fork(2) as (one, other):
            for name, each in (("one", one), ("other", other), ("origin's own", session)):
                await each.exec(
                    f"state[:] = {name!r}.encode() * 9; names.add({name!r}); secret_{name[:3]} = 1"
                )
                await each.write_file("/tmp/note", name.encode())
            for name, each in (("one", one), ("other", other), ("origin's own", session)):
                look = "[sorted(names), bytes(state[:3]).decode(), 'secret_one' in globals()]"
                assert await value(each, look) == [sorted({"origin", name}), name[:3], name == "one"]
                assert await each.read_file("/tmp/note") == name.encode()


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_a_session_may_be_closed_before_its_forks_and_one_of_them_before_the_others(
    isolation: str,
) -> None:
    async with Sandbox(policy(isolation)) as box:
        session = await box.session()
        await session.exec("x = 7")
        forks = await session.fork(2)
        await session.aclose()
        await forks[0].aclose()
        assert await value(forks[1], "x") == 7
        async with forks[1].fork(1) as (grandchild,):
            assert await value(grandchild, "x") == 7
        await forks.aclose()
        await forks.aclose()
        assert sessions(box) == 0


@pytest.mark.parametrize("isolation", ["tenant", "session"])
async def test_where_there_is_no_place_for_all_there_is_none(isolation: str) -> None:
    limits = policy(isolation, workers=WORKERS, tenants=ONE_TENANT)
    async with Sandbox(limits) as box, box.session() as session:
        await session.exec("x = 1")
        with pytest.raises(Overloaded, match=r"3 (sessions|workers)"):
            await session.fork(3)
        await settled(box, 1)
        async with session.fork(2) as forks:
            assert [await value(fork, "x") for fork in forks] == [1, 1]
        assert sessions(box) == 1


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_what_fails_in_one_closes_those_that_were_made_and_is_raised_as_it_is(
    isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        made, whole = 0, box._worker.session

        async def breaks(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            opened = await whole(*args, **kwargs)
            made += 1
            if made == 3:
                await opened.aclose()
                raise OSError("the fourth wall")
            return opened

        monkeypatch.setattr(box._worker, "session", breaks)
        with pytest.raises(OSError, match="the fourth wall"):
            await session.fork(5)
        assert made >= 3
        await settled(box, 1)
        assert await value(session, "6 * 7") == 42


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_forking_that_is_cancelled_leaves_nothing(
    isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.exec("x = 1")
        whole = box._worker.session
        for at in (0, 3):
            left = at
            with anyio.CancelScope() as scope:

                async def cancels(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    opened = await whole(*args, **kwargs)
                    left -= 1
                    if left < 0:
                        scope.cancel()
                    return opened

                monkeypatch.setattr(box._worker, "session", cancels)
                await session.fork(4)
            assert scope.cancelled_caught
            monkeypatch.setattr(box._worker, "session", whole)
            assert await value(session, "x") == 1
        await settled(box, 1)


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (0, "at least 1"),
        (-1, "at least 1"),
        (True, "an int, not a bool"),
        (1.0, "an int, not a float"),
        ("2", "an int, not a str"),
        (None, "an int, not a NoneType"),
        (10**9, "one tenant may have"),
    ],
)
async def test_a_number_of_forks_that_cannot_be_is_refused_at_once(n: object, told: str) -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        snapshot = await session.snapshot()
        for fork in (session.fork, snapshot.fork):
            with pytest.raises(UsageError, match=told) as refused:
                fork(n)  # type: ignore[arg-type]
            assert n != 10**9 or "workers.sessions_max" in str(refused.value.hint)


async def test_the_most_forks_are_a_tenants_part_of_the_sessions() -> None:
    half = policy(workers={"sessions_max": 8}, tenants={"share_percent": 50})
    async with Sandbox(half) as box, box.session() as session:
        with pytest.raises(UsageError, match="5 forks are more than the 4 sessions"):
            session.fork(5)
        async with session.fork(4) as forks:
            assert len(forks) == 4


async def test_forks_are_made_once_by_await_or_async_with() -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        opening = session.fork(1)
        with pytest.raises(UsageError, match="async with") as refused:
            with opening:
                pass
        assert "sync()" in str(refused.value.hint)
        async with opening:
            with pytest.raises(UsageError, match="already"):
                await opening


async def test_a_session_that_is_busy_or_closed_is_not_forked() -> None:
    async with Sandbox(policy()) as box:
        async with box.session() as session, anyio.create_task_group() as tasks:

            async def answer(frame: bytes) -> bytes:
                with pytest.raises(UsageError, match="busy"):
                    await session.fork(2)
                tried.set()
                return await never(frame)

            async def never(frame: bytes) -> bytes:
                await anyio.sleep_forever()
                raise AssertionError

            async def run() -> None:
                await session.exec("llm_query('?')", answer_frames=answer)

            tried = anyio.Event()
            tasks.start_soon(run)
            await tried.wait()
            session.interrupt()
        with pytest.raises(UsageError, match="closed"):
            await session.fork(2)
        assert sessions(box) == 0


async def drawn(
    limits: Policy, order: Callable[[list[SandboxSession]], list[SandboxSession]]
) -> list[object]:
    """Draw in forks of a session in some order, in a fork of each, in later forks, and in the session."""
    found: dict[int, object] = {}
    async with Sandbox(limits) as box, box.session() as session:
        await session.exec("x = 1")
        async with session.fork(2) as forks, session.fork(1) as later:
            everyone = [*forks, *later, session]
            numbers = {id(each): at for at, each in enumerate(everyone)}
            for each in order(everyone):
                async with each.fork(1) as below:
                    found[numbers[id(each)]] = [
                        await value(each, DRAW),
                        *[await value(fork, DRAW) for fork in below],
                    ]
    return [found[at] for at in range(len(found))]


@pytest.mark.threat("T-371")
@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_under_a_seed_each_fork_draws_its_own_and_the_same_again_in_any_order(isolation: str) -> None:
    seeded = policy(isolation, sandbox={"entropy": "seeded", "seed": 7})
    first = await drawn(seeded, lambda forks: forks)
    assert await drawn(seeded, lambda forks: forks[::-1]) == first
    texts = [str(each) for group in first for each in group]  # type: ignore[attr-defined]
    assert len(set(texts)) == len(texts) == 8
    if isolation == "inline":
        other = policy(isolation, sandbox={"entropy": "seeded", "seed": 8})
        assert await drawn(other, lambda forks: forks) != first


@pytest.mark.threat("T-371")
async def test_without_a_seed_no_two_forks_draw_alike() -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        await session.exec("import random; random.seed(1)")
        async with session.fork(3) as forks:
            assert len({str(await value(fork, DRAW)) for fork in forks}) == 3


async def test_a_saved_snapshot_forks_alike_in_each_program(tmp_path: Path) -> None:
    seeded = policy(sandbox={"entropy": "seeded", "seed": 3})
    key, path = secrets.token_bytes(32), tmp_path / "saved"
    async with Sandbox(seeded) as box, box.session() as session:
        await session.exec("x = [1, 2]")
        (await session.snapshot()).save(path, key=key)
    seen = []
    for sooner in range(2):
        async with Sandbox(seeded) as box:
            for _ in range(sooner):
                await (await box.session()).aclose()
            snapshot = box.load_snapshot(path, key=key)
            async with snapshot.fork(2) as forks, snapshot.fork(1) as (last,):
                seen.append([[await value(fork, "x"), await value(fork, DRAW)] for fork in (*forks, last)])
    assert seen[0] == seen[1]
    assert len({str(each) for each in seen[0]}) == 3


async def test_forks_are_of_their_sessions_tenant_and_have_the_sandboxes_tools() -> None:
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    limits = policy(tools={"allow": ["double"]})
    async with Sandbox(limits, tools=[double]) as box, box.session(tenant="ann") as session:
        async with session.fork(2) as forks:
            assert [await value(fork, "double(21)") for fork in forks] == [42, 42]
        assert {row.sessions for name, row in box.metrics().tenants.items() if name == "ann"} == {3}


def test_without_async_they_are_the_same(guest: object) -> None:
    def seen(result: CellResult) -> object:
        assert result.error is None
        return result.value

    with Sandbox(policy()).sync() as box, box.session() as session:
        session.exec("x = [1]")
        with session.fork(2) as forks:
            assert [seen(fork.exec("x.append(2); len(x)")) for fork in forks] == [2, 2]
            assert seen(forks[1].exec("x")) == [1, 2]
            assert [len(forks), len(forks[:1])] == [2, 1]
        with box.fork(session.snapshot(), 3) as others:
            assert [seen(fork.exec("x")) for fork in others] == [[1]] * 3
        assert seen(session.exec("x")) == [1]
        kept = session.fork(1)
        with pytest.raises(UsageError, match="at least 1"):
            session.fork(0)
    kept.__exit__(None, None, None)  # closed with their sandbox


def test_the_streams_of_forks_are_no_other_sessions_and_fit_where_numbers_do() -> None:
    streams = [fork_stream(origin, number) for origin in (0, 1, 2**62) for number in range(1_000)]
    assert len(set(streams)) == len(streams)
    assert all(2**62 <= stream < 2**63 for stream in streams)


PAGE = Path(__file__).parents[3] / "docs" / "forks.md"
BLOCKS = re.findall(r"```python\n(.*?)```\n\nThat prints (.*?)\.\n", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("block", "said"), BLOCKS, ids=[str(at) for at in range(len(BLOCKS))])
def test_the_page_prints_what_it_says(
    block: str, said: str, guest: object, capsys: pytest.CaptureFixture[str]
) -> None:
    source = block.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    exec(compile(source, "forks.md", "exec"), {"__name__": "forks"})
    assert capsys.readouterr().out.splitlines() == re.findall(r"`([^`]+)`", said)


def test_each_block_of_the_page_is_run() -> None:
    assert PAGE.read_text().count("```python") == len(BLOCKS) > 0
