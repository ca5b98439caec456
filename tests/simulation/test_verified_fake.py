"""The simulated guest behaves as the real one: each scenario is run over both, and must tell the same.

Above the session both are the same code: the inline session, the worker loop, the operations.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import BoundaryViolation, RlmWasmError
from rlm_wasm.inline.worker import InlineSession, InlineWorker
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.results import CellResult
from tests.simulation.event_loop import VirtualLoop, run_virtual
from tests.simulation.guest import PRELUDE
from tests.simulation.worker import SimulatedLoop, SimulatedWorker
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

Told = list[object]
_PRELUDE_NAMES = {line.split("(")[0][4:] for line in PRELUDE.splitlines() if line.startswith("def ")}


class Scene:
    """A worker of either kind, and everything that was seen of it."""

    def __init__(self, worker: InlineWorker, *, real: bool) -> None:
        self.worker = worker
        self.real = real
        self.told: Told = []

    async def session(self, *, boundary: dict[str, int] | None = None, **limits: Any) -> InlineSession:
        limits = {"clock": "real"} | limits
        made = await self.worker.session(session_limits(**limits), boundary_limits(**(boundary or {})))
        if self.real:
            await made.run(Cell(PRELUDE, cell_limits()))
        return made

    async def run(
        self, session: InlineSession, source: str, answer: Any = None, checkpoint: int = 0, **limits: int
    ) -> CellResult | None:
        """Run a cell and note what it came to, or what was raised."""
        limits = {"fuel_max": 2_000_000_000, "requests_max": 4} | limits
        cell = Cell(source, cell_limits(**limits), report_variables=True)
        try:
            result = await session.run(cell, answer or self.echo, checkpoint_bytes_max=checkpoint)
        except RlmWasmError as error:
            self.told.append((type(error).__name__, error.message.partition(";")[0]))
            return None
        names = tuple(name for name in result.variables if name not in _PRELUDE_NAMES)
        error = type(result.error).__name__
        self.told.append((result.outcome, error, result.stdout[:200], names))
        self.told.append(result.session_state)
        return result

    async def echo(self, frame: bytes) -> bytes:
        """Answer as a model does; note the frame."""
        self.told.append(frame.replace(b" ", b""))
        await anyio.lowlevel.checkpoint()
        request = json.loads(frame)
        match request["type"]:
            case "llm_query":
                document: dict[str, Any] = {"status": "completed", "text": f"re {request['prompt']}|"}
            case "llm_query_batch":
                items = [{"status": "completed", "text": f"re {prompt}|"} for prompt in request["prompts"]]
                document = {"status": "completed", "items": items}
            case "budget":
                document = {"status": "completed", "budget": {"calls": {}, "fuel": {}}}
            case _:
                document = {"status": "completed"}
        return json.dumps(document, separators=(",", ":")).encode()


async def words(scene: Scene) -> None:
    async with await scene.session() as session:
        for source in (
            'show("hi")\nlet("x", 5)',
            'ask("is it?")\nask("and?", "a:b")',
            'ask_all(["a", "b"])\nattempt("c")\nattempt_all(["d"])\nleft()',
            'FINAL("done")\nshow("not reached")',
            'fail("bad")',
            "hog()",
            "burn(100_000)",
            "nap(1)",
            "this is no Python",
            "nobody_defined_this()",
        ):
            await scene.run(session, source)


async def refusals(scene: Scene) -> None:
    async def refuse(frame: bytes) -> bytes:
        error = {"type": "BudgetExceeded", "message": "no calls left"}
        if json.loads(frame)["type"] == "llm_query":
            return json.dumps({"status": "denied", "error": error}).encode()
        item = {"status": "denied", "error": error}
        return json.dumps({"status": "completed", "items": [item, item]}).encode()

    async with await scene.session() as session:
        for source in ('ask("a")', 'attempt("a")', 'ask_all(["a", "b"])', 'attempt_all(["a", "b"])'):
            await scene.run(session, source, refuse)


async def limits_of_a_cell(scene: Scene) -> None:
    ends = (
        ("burn(400_000_000)", {"fuel_max": 50_000_000}),
        ("defy()", {"fuel_max": 200_000_000}),
        ("nap(50)\nnap(60)", {"sleep_ms_max": 100}),
        ("flood(70_000)", {}),
        ("trap()", {}),
        ('raw(b"no json")', {}),
    )
    for source, limits in ends:
        for checkpoint in (0, 1 << 26):
            async with await scene.session() as session:
                await scene.run(session, 'let("kept", 1)')
                await scene.run(session, source, refuse_what_is_no_request, checkpoint, **limits)
                await scene.run(session, 'show("still here")')


async def refuse_what_is_no_request(frame: bytes) -> bytes:
    raise BoundaryViolation("the request frame is malformed")


async def a_flood_of_requests(scene: Scene) -> None:
    async def deny(frame: bytes) -> bytes:
        return b'{"status":"denied","error":{"type":"BudgetExceeded","message":"enough"}}'

    async with await scene.session() as session:
        await scene.run(session, "\n".join(['attempt("x")'] * 40), deny, requests_max=4)


async def children(scene: Scene) -> None:
    """What the guest makes of answers to its requests for children; nobody runs any here."""

    async def answer(frame: bytes) -> bytes:
        scene.told.append(frame.replace(b" ", b""))
        request = json.loads(frame)
        failed = {"status": "failed", "error": {"type": "ChildFailed", "message": "it ended early"}}
        if request["type"] == "rlm_query":
            return json.dumps(failed).encode()
        items = [{"status": "completed", "text": f"re {request['prompts'][0]}|"}, failed]
        return json.dumps({"status": "completed", "items": items}).encode()

    async with await scene.session() as session:
        for source in (
            'attempt_child("a")\nattempt_child("b", {"calls": 1})',
            'child("a")',
            'attempt_children(["a", "b"])',
            'children(["a", "b"], {"fuel": 5})',
        ):
            await scene.run(session, source, answer)


async def busy_and_closed(scene: Scene) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def wait(frame: bytes) -> bytes:
        asked.set()
        await go_on.wait()
        return await scene.echo(frame)

    session = await scene.session()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.run, session, 'ask("slow")', wait)
        await asked.wait()
        await scene.run(session, 'show("second")')
        go_on.set()
    await session.aclose()
    await session.aclose()
    await scene.run(session, 'show("closed")')


async def closed_in_the_middle(scene: Scene) -> None:
    for source in ('ask("slow")', 'ask("x")\ndefy()'):
        session, asked = await scene.session(), anyio.Event()

        async def answer(frame: bytes, asked: anyio.Event = asked) -> bytes:
            asked.set()
            if b"slow" in frame:
                await anyio.sleep_forever()
            return await scene.echo(frame)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.run, session, source, answer)
            await asked.wait()
            if "slow" not in source:
                await anyio.sleep(0.02)  # until the guest computes again, or not: it is closed all the same
            await session.aclose()
            if "slow" in source:
                # The answer is still worked on; nobody waits for the guest any more.
                tasks.cancel_scope.cancel()


async def a_host_wait_ends(scene: Scene) -> None:
    async def never(frame: bytes) -> bytes:
        await anyio.sleep_forever()
        return b""

    for checkpoint in (0, 1 << 26):
        async with await scene.session(boundary={"host_wait_ms_max": 40}) as session:
            await scene.run(session, 'ask("x")', never, checkpoint)
            await scene.run(session, 'show("after")')


async def cancelled(scene: Scene) -> None:
    for source in ('ask("x")', "defy()", "nap(500)"):
        async with await scene.session() as session:
            asked: list[str] = []

            async def never(frame: bytes, asked: list[str] = asked) -> bytes:
                try:
                    await anyio.sleep_forever()
                finally:
                    asked.append("ended")
                return b""

            with anyio.move_on_after(0.05) as scope:
                await scene.run(session, source, never, fuel_max=10**15)
            scene.told.append((scope.cancelled_caught, asked))
            await scene.run(session, 'show("after")')


async def interrupted(scene: Scene) -> None:
    for source in ('ask("x")', "nap(200)\nburn(10_000_000_000)", "burn(10_000_000_000)", "defy()"):
        async with await scene.session() as session:

            async def never(frame: bytes) -> bytes:
                await anyio.sleep_forever()
                return b""

            async with anyio.create_task_group() as tasks:
                limits = {"fuel_max": 10**15}
                tasks.start_soon(lambda: scene.run(session, source, never, **limits))  # noqa: B023
                await anyio.sleep(0.05)
                session.interrupt()
            session.interrupt()
            await scene.run(session, 'show("after")')


async def inputs(scene: Scene) -> None:
    async with await scene.session(context_bytes_max=1 << 20) as session:
        await session.load("context", "abc")
        await session.rebase()
        for name, value in (("not a name", "x"), ("big", "x" * (2 << 20)), ("number", 5)):
            try:
                await session.load(name, value)  # type: ignore[arg-type]
            except RlmWasmError as error:
                scene.told.append(type(error).__name__)
        await scene.run(session, 'show("alive")')
        snapshot = await session.snapshot()
        await scene.run(session, 'let("later", 1)')
    fork = await scene.worker.session(session_limits(), boundary_limits(), start=snapshot)
    async with fork:
        await scene.run(fork, 'let("forked", 1)')


async def a_closed_worker(scene: Scene) -> None:
    session = await scene.session()
    await scene.worker.aclose()
    await scene.run(session, 'show("x")')
    await session.aclose()


Scenario = Callable[[Scene], Awaitable[None]]
SCENARIOS: list[Scenario] = [
    words,
    refusals,
    limits_of_a_cell,
    a_flood_of_requests,
    children,
    busy_and_closed,
    closed_in_the_middle,
    a_host_wait_ends,
    cancelled,
    interrupted,
    inputs,
    a_closed_worker,
]


async def seen(scenario: Scenario, worker: InlineWorker, *, real: bool) -> Told:
    scene = Scene(worker, real=real)
    async with worker:
        await scenario(scene)
    return scene.told


@pytest.mark.guest
@pytest.mark.threat("T-089")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_simulated_guest_does_what_the_real_one_does(scenario: Scenario) -> None:
    wrong: list[str] = []

    async def simulated(events: VirtualLoop) -> Told:
        loop = SimulatedLoop(events, Random(1), wrong.append)
        return await seen(scenario, SimulatedWorker(loop, events.clock), real=False)

    async def real() -> Told:
        return await seen(scenario, InlineWorker(), real=True)

    assert run_virtual(simulated, Random(2), slow=True) == anyio.run(real)
    assert not wrong
