"""The best of several candidates: scored, bounded, with the errors of some, cancelled, and in turn."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import BestOf, CellResult, Policy, Sandbox, SandboxSession, SyncSession
from rlm_wasm.errors import GuestException, InternalError, NoCandidate, UsageError
from tests.support.runtime_facts import small_policy
from tests.unit.api.test_forks import sessions, settled

pytestmark = [pytest.mark.anyio, pytest.mark.guest, pytest.mark.usefixtures("guest", "healthy_host")]


def policy(isolation: str = "inline", **sections: dict[str, Any]) -> Policy:
    sandbox = {"isolation": isolation, "require_lockdown": False} | sections.pop("sandbox", {})
    return small_policy(sandbox=sandbox, **sections)


def by_value(session: SandboxSession, result: CellResult) -> float | None:
    found = result.value
    assert found is None or isinstance(found, int | float)
    return found


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_the_best_of_several_cells_is_kept_and_the_others_are_closed(isolation: str) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.exec("base = 10")
        cells = ["x = base + 1; x", "x = base + 5; x", "x = base; None", "1 / 0", "x = base + 5; x"]
        async with session.best_of(5, cells, score=by_value) as best:
            assert sessions(box) == 2
            assert (await best.session.exec("x")).value == 15
            assert best.best is best.candidates[1]
            assert [each.score for each in best.candidates] == [11, 15, None, None, 15]
            assert [each.number for each in best.candidates] == [0, 1, 2, 3, 4]
            assert isinstance(best.candidates[3].error, GuestException)
            assert [each.error for each in best.candidates if each.number != 3] == [None] * 4
        assert sessions(box) == 1
        assert (await session.exec("'x' in globals()")).value is False


async def test_one_cell_that_draws_is_as_many_candidates_and_repeats_under_a_seed() -> None:
    seeded = policy(sandbox={"entropy": "seeded", "seed": 5})
    source = "import random; guess = random.random(); guess"
    seen = []
    for parallel_max in (1, 3):
        async with Sandbox(seeded) as box, box.session() as session:
            async with session.best_of(6, source, score=by_value, parallel_max=parallel_max) as best:
                seen.append([each.score for each in best.candidates])
                assert (await best.session.exec("guess")).value == max(seen[-1])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 6


async def test_candidates_may_be_made_by_a_function_of_the_fork_and_scored_in_it() -> None:
    async def attempt(fork: SandboxSession, number: int) -> str:
        await fork.exec(f"def solve(n): return n * {number}")
        if number == 2:
            raise LookupError("nothing comes to mind")
        return f"times {number}"

    async def score(fork: SandboxSession, result: str) -> float | None:
        assert result.startswith("times ")
        found = (await fork.exec("solve(4)")).value
        assert isinstance(found, int)
        return -abs(12 - found)

    async with Sandbox(policy()) as box, box.session() as session:
        async with session.best_of(5, attempt, score=score) as best:
            assert best.best.number == 3
            assert best.best.result == "times 3"
            assert isinstance(best.candidates[2].error, LookupError)
            assert (await best.session.exec("solve(5)")).value == 15


async def test_a_score_that_fails_or_is_no_number_is_none_and_loses_no_other() -> None:
    def score(fork: SandboxSession, result: CellResult) -> Any:
        match result.value:
            case 0:
                raise ValueError("no taste")
            case 1:
                return "very good"
            case 2:
                return float("nan")
            case _:
                return True

    async with Sandbox(policy()) as box, box.session() as session:
        async with session.best_of(4, ["0", "1", "2", "3"], score=score) as best:
            assert best.best.number == 3
            assert best.best.score == 1.0
            assert [type(each.error) for each in best.candidates] == [
                ValueError,
                UsageError,
                UsageError,
                type(None),
            ]
            assert [each.result.value for each in best.candidates] == [0, 1, 2, 3]


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_where_none_has_a_score_all_are_closed_and_it_says_why(isolation: str) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        with pytest.raises(NoCandidate, match="none of 3 candidates has a score; 2 failed") as none:
            await session.best_of(3, ["1 / 0", "None", "1 / 0"], score=by_value)
        assert sorted(none.value.errors) == [0, 2]
        assert sessions(box) == 1


async def test_a_bug_of_ours_is_not_taken_for_a_candidates() -> None:
    def score(fork: SandboxSession, result: CellResult) -> float:
        raise InternalError("ours")

    async with Sandbox(policy()) as box, box.session() as session:
        with pytest.raises(InternalError, match="ours"):
            await session.best_of(3, "1", score=score)
        await settled(box, 1)


async def test_so_many_run_at_a_time_and_no_more() -> None:
    running, most = 0, 0

    async def attempt(fork: SandboxSession, number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await fork.exec("1")
        running -= 1
        return number

    async def score(fork: SandboxSession, number: int) -> float:
        assert sessions(box) <= 2 + 3  # the session, the best so far, and those that run
        return number % 4

    async with Sandbox(policy()) as box, box.session() as session:
        async with session.best_of(12, attempt, score=score, parallel_max=3) as best:
            assert best.best.number == 3
        assert most == 3


@pytest.mark.parametrize("isolation", ["tenant", "session"])
async def test_where_there_is_no_place_for_as_many_fewer_run_at_a_time(isolation: str) -> None:
    limits = policy(
        isolation,
        workers={"workers_max": 3, "sessions_max": 3, "sessions_per_worker_max": 3},
        tenants={"share_percent": 100},
    )
    cells = [str(each) for each in (3, 1, 4, 1, 5, 9, 2, 6)]
    async with Sandbox(limits) as box, box.session() as session:
        async with session.best_of(8, cells, score=by_value, parallel_max=8) as best:
            assert [each.score for each in best.candidates] == [3, 1, 4, 1, 5, 9, 2, 6]
            assert best.best.number == 5
        await settled(box, 1)


async def cancels(scope: anyio.CancelScope, at: int, fork: SandboxSession, number: int) -> int:
    if number == at:
        scope.cancel()
    await fork.exec("2")
    return number


@pytest.mark.parametrize("isolation", ["inline", "session"])
async def test_cancelled_it_leaves_nothing(isolation: str) -> None:
    async with Sandbox(policy(isolation)) as box, box.session() as session:
        await session.exec("x = 1")
        for at in (0, 3):
            with anyio.CancelScope() as scope:
                await session.best_of(
                    6, partial(cancels, scope, at), score=lambda fork, number: number, parallel_max=2
                )
            assert scope.cancelled_caught
            await settled(box, 1)
        assert (await session.exec("x")).value == 1


async def test_a_candidate_that_loops_ends_by_its_limits_and_loses_no_other() -> None:
    limits = policy(cell={"fuel_max": 300_000_000})
    async with Sandbox(limits) as box, box.session() as session:
        async with session.best_of(2, ["while True: pass", "7"], score=by_value) as best:
            assert best.best.number == 1
            assert type(best.candidates[0].error).__name__ == "FuelExhausted"


async def attempt_of_none(fork: SandboxSession, number: int) -> None: ...


@pytest.mark.parametrize(
    ("n", "attempt", "score", "parallel_max", "told"),
    [
        (0, "1", by_value, 1, "at least 1"),
        (True, "1", by_value, 1, "an int, not a bool"),
        (2, ["1"], by_value, 1, "2 candidates need 2 sources, and there are 1"),
        (2, [1, 2], by_value, 1, "not a list"),
        (2, by_value, by_value, 1, "async function"),
        (2, None, by_value, 1, "not a NoneType"),
        (2, "1", None, 1, "score is a function"),
        (2, "1", by_value, 0, "parallel_max is at least 1"),
        (2, attempt_of_none, by_value, "4", "parallel_max is an int"),
    ],
    ids=lambda each: None if callable(each) else str(each),
)
async def test_what_cannot_be_tried_is_refused_at_once(
    n: Any, attempt: Any, score: Any, parallel_max: Any, told: str
) -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        with pytest.raises(UsageError, match=told):
            session.best_of(n, attempt, score=score, parallel_max=parallel_max)


async def test_it_is_tried_once_and_its_session_may_go_on() -> None:
    async with Sandbox(policy()) as box, box.session() as session:
        opening = session.best_of(2, "1", score=by_value)
        with pytest.raises(UsageError, match="async with"), opening:
            pass
        best: BestOf = await opening
        with pytest.raises(UsageError, match="already"):
            await opening
        async with best, best.session.best_of(2, ["2", "3"], score=by_value) as better:
            assert better.best.score == 3
        assert sessions(box) == 1


def test_without_async_it_is_the_same(guest: object) -> None:
    threads = set()

    def attempt(fork: SyncSession, number: int) -> int:
        threads.add(threading.current_thread())
        fork.exec(f"y = x * {number}")
        if number == 1:
            raise KeyError("one")
        return number

    def score(fork: SyncSession, number: int) -> float:
        return float(str(fork.get("y")))

    with Sandbox(policy()).sync() as box, box.session() as session:
        session.exec("x = 2")
        with session.best_of(4, attempt, score=score) as best:
            assert best.best.number == 3
            assert best.session.get("y") == 6
            assert isinstance(best.candidates[1].error, KeyError)
        with session.best_of(2, ["1", "2"], score=lambda fork, result: -result.value) as best:
            assert best.best.number == 0
        with pytest.raises(NoCandidate):
            session.best_of(1, "1 / 0", score=score)
        with pytest.raises(UsageError, match="score is a function"):
            session.best_of(1, "1", score=None)  # type: ignore[arg-type]
    assert threading.current_thread() not in threads
