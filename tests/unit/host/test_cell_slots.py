"""Who may compute, against a model: never more of one tenant than its limit, in the order of asking."""

from __future__ import annotations

from collections import defaultdict

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.host.cell_slots import CellSlots
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.worker import Worker, WorkerSession
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.limits import CellLimits
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from tests.support.pool_facts import pool_limits
from tests.support.sandbox_facts import boundary_limits, cell_limits, echo, session_limits

SESSIONS = 6
_STEP = st.tuples(st.sampled_from(["begin", "begin", "end", "hurry"]), st.integers(0, SESSIONS - 1))


@pytest.mark.threat("T-116")
@given(st.lists(_STEP, max_size=60), st.integers(1, 3))
def test_places_are_given_in_order_and_never_more_than_a_tenant_may_have(
    steps: list[tuple[str, int]], cells_max: int
) -> None:
    cell_slots = CellSlots(cells_max)
    each = [cell_slots.cell_slot("ab"[n % 2]) for n in range(SESSIONS)]
    called: list[int] = []
    has: dict[int, bool] = {}  # those that began and did not end: whether it has a place
    over: set[int] = set()  # those that were let in beyond the limit
    lines: dict[int, list[int]] = defaultdict(list)

    def fill(side: int) -> None:
        while lines[side] and sum(has.get(n, False) for n in range(side, SESSIONS, 2)) < cells_max:
            first = lines[side].pop(0)
            has[first] = True

    for what, n in steps:
        side = n % 2
        match what:
            case "begin" if n not in has:
                has[n] = False
                lines[side].append(n)
                fill(side)
                assert each[n].begin(lambda n=n: called.append(n)) == has[n]  # type: ignore[misc]
                if has[n]:
                    called.append(n)
            case "end" if n in has:
                if has.pop(n):
                    over.discard(n)
                else:
                    lines[side].remove(n)
                fill(side)
                each[n].end()
            case "hurry" if n in has:
                if not has[n]:
                    lines[side].remove(n)
                    has[n] = True
                    over.add(n)
                each[n].hurry()
        for tenant, start in (("a", 0), ("b", 1)):
            computing = sum(has.get(k, False) for k in range(start, SESSIONS, 2))
            assert cell_slots.computing(tenant) == computing <= cells_max + len(over)
            assert cell_slots.waiting(tenant) == len(lines[start])
        assert {k for k in has if has[k]} == {k for k in called if has.get(k)}
    for cell_slot in each:
        cell_slot.end()
        cell_slot.end()
    assert (
        cell_slots.computing("a")
        == cell_slots.computing("b")
        == cell_slots.waiting("a")
        == cell_slots.waiting("b")
        == 0
    )


# -- real cells ------------------------------------------------------------------------------------------

guests = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
FOREVER = "while True: pass"


def _worker(kind: str, cells_max: int) -> Worker:
    if kind == "inline":
        return InlineWorker(cells_max=cells_max)
    return WorkerPool(pool_limits("shared", workers_max=1, tenants={"cells_max": cells_max}))


async def _session(worker: Worker, tenant: str) -> WorkerSession:
    return await worker.session(session_limits(), boundary_limits(), tenant=tenant)


def _limits(**over: int) -> CellLimits:
    return cell_limits(**({"fuel_max": 10**12, "wall_ms_max": 60_000} | over))


def _assert_used_nothing(session: WorkerSession) -> None:
    last = session.last_result
    assert last is not None
    assert (last.outcome, last.fuel_used, last.executed_ns) == ("cancelled", 0, 0)
    assert last.session_state is SessionState.ALIVE


class _Taking:
    """A tenant that computes in several sessions at once, as much as it gets."""

    def __init__(self) -> None:
        self.results: list[CellResult] = []

    async def compute(self, session: WorkerSession, fuel: int = 10**12) -> None:
        self.results.append(await session.run(Cell(FOREVER, _limits(fuel_max=fuel))))


@pytest.mark.threat("T-116")
@pytest.mark.parametrize("kind", ["inline", "shared"])
@pytest.mark.parametrize(("cells_max", "before"), [(1, {1, 2, 3}), (6, {6})])
async def test_one_tenant_that_computes_all_it_can_leaves_another_its_share(
    kind: str, cells_max: int, before: set[int]
) -> None:
    """Two of the six cells of half the fuel, and not all of them, end before the other tenant's one does.

    A cell has 64 slices, or more where those would be too long: of so much fuel the one has more.
    """
    greedy, fuel = _Taking(), 4_000_000_000
    async with _worker(kind, cells_max) as worker:
        sessions = [await _session(worker, "greedy") for _ in range(6)]
        modest = await _session(worker, "modest")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for session in sessions:
                    tasks.start_soon(greedy.compute, session, fuel // 2)
                result = await modest.run(Cell(FOREVER, _limits(fuel_max=fuel)))
                ended = len(greedy.results)
    assert {each.outcome for each in (result, *greedy.results)} == {"fuel_exhausted"}
    assert len(greedy.results) == 6
    assert ended in before


@pytest.mark.threat("T-116")
@pytest.mark.parametrize("kind", ["inline", "shared"])
async def test_a_cell_that_waits_for_its_host_takes_nobodys_place(kind: str) -> None:
    """Its own child, for example, which it waits for."""
    async with _worker(kind, 1) as worker:
        parent, child = await _session(worker, "a"), await _session(worker, "a")

        async def answer(frame: bytes) -> bytes:
            assert (await child.run(Cell("6 * 7", _limits()))).result == "42"
            return echo(frame)

        with anyio.fail_after(60):
            assert (await parent.run(Cell("llm_query('hi')", _limits()), answer)).result == "'HI'"


@pytest.mark.threat("T-116")
@pytest.mark.parametrize("kind", ["inline", "shared"])
async def test_a_cell_that_waits_for_its_place_can_be_given_up_interrupted_and_closed(kind: str) -> None:
    taking, outcomes = _Taking(), []
    async with _worker(kind, 1) as worker:
        busy, given_up, interrupted, closed = [await _session(worker, "a") for _ in range(4)]

        async def wait(session: WorkerSession) -> None:
            try:
                outcomes.append((await session.run(Cell(FOREVER, _limits()))).outcome)
            except Exception as error:  # noqa: BLE001 - told below
                outcomes.append(str(error))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(taking.compute, busy)
                await anyio.wait_all_tasks_blocked()
                with anyio.move_on_after(0.01):
                    await given_up.run(Cell(FOREVER, _limits()))
                _assert_used_nothing(given_up)
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(wait, interrupted)
                    await anyio.wait_all_tasks_blocked()
                    interrupted.interrupt()
                assert outcomes.pop() == "cancelled"
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(wait, closed)
                    await anyio.wait_all_tasks_blocked()
                    await closed.aclose()
                    busy.interrupt()
                assert outcomes.pop() == "the session was closed"
                _assert_used_nothing(closed)
            assert (await given_up.run(Cell("1 + 1", _limits()))).result == "2"
            assert (await interrupted.run(Cell("1 + 1", _limits()))).result == "2"


for _test in (
    test_one_tenant_that_computes_all_it_can_leaves_another_its_share,
    test_a_cell_that_waits_for_its_host_takes_nobodys_place,
    test_a_cell_that_waits_for_its_place_can_be_given_up_interrupted_and_closed,
):
    for _mark in reversed(guests):
        _mark(_test)
