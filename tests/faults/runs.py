"""Whole runs whose worker processes are struck at some event: books of their own check every step."""

from __future__ import annotations

import time
from random import Random
from typing import Any, Final

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.providers.base import Completion, Query
from tests.faults.leftovers import nothing_left
from tests.faults.rounds import HANG_MS, ISOLATIONS, STUCK_SECONDS, TOLD_SECONDS_MAX, Tally, counted
from tests.faults.steps import REFUSED
from tests.faults.strikes import STRIKES, Strike
from tests.simulation.books import Books
from tests.simulation.watched import watch
from tests.support.pool_facts import until
from tests.support.runtime_facts import Events, small_policy

# What a root does, in this order, as often as it still can: a lost session's variables are made again.
_REPLIES: Final = (
    "x = len(context)\nprint(llm_query('one'))",
    "y = rlm_query('child of ' + str(len(context)))\nprint(llm_query_batched(['two', 'three']), y)",
    "print('z' * 50_000)\nimport os; os._exit(3)",
    "FINAL(f'{len(context)}')",
)
_CONTEXT: Final = "c" * 300_000
# Events of a run without a fault are some sixty; a fault may come before each, and before none.
_EVENTS: Final = 70


class Model:
    """Replies by turn; a child answers with its question's length; anything else is answered in capitals."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def complete(self, query: Query) -> Completion:
        await anyio.sleep(self._random.choice((0, 0, 0.002, 0.01)))
        if query.messages[0].role != "system":
            return Completion(query.messages[-1].content.upper(), 3, 3)
        if "child of" in query.messages[1].content:
            return Completion("```repl\nFINAL(llm_query('deep') + str(len(context)))\n```", 3, 3)
        turn = sum(message.role == "assistant" for message in query.messages)
        return Completion(f"```repl\n{_REPLIES[min(turn, len(_REPLIES) - 1)]}\n```", 3, 3)

    async def aclose(self) -> None:
        pass


async def runs(tally: Tally, seed: int, count: int) -> None:
    """Open a runtime and let one fault come in each of `count` runs, two at once. Nothing may be left."""
    random = Random(seed)
    policy = small_policy(
        sandbox={"isolation": random.choice(ISOLATIONS)},
        workers={"workers_max": 8, "hang_ms_max": HANG_MS, "heartbeat_ms": 50},
        run={"depth_max": 2},
    )
    async with nothing_left() as seen:
        with counted():
            async with Runtime(policy, route=lambda name: (Model(random), name)) as runtime:
                broker, pool = runtime._broker, runtime._worker
                assert broker is not None
                assert isinstance(pool, WorkerPool)
                books = Books(policy.permit_limits())
                watch(broker, books, lambda: None)

                starved: list[Connection] = []

                async def one(strike: Strike, at: int) -> None:
                    events, struck = Events(), []

                    def sink(event: Event) -> None:
                        events.append(event)
                        if event.seq >= at and not struck:
                            seen.look()
                            connection = random.choice(pool.connections) if pool.connections else None
                            if strike.strike(pool, connection):
                                struck.append(time.monotonic())
                                if strike.name.startswith("no ") and connection is not None:
                                    starved.append(connection)

                    about = f"{strike.name} at event {at} in {policy.sandbox.isolation!r}"
                    with anyio.move_on_after(STUCK_SECONDS) as stuck:
                        try:
                            result = await runtime.ask("?", _CONTEXT, sinks=[sink])
                            outcome = "finished" if not result.partial else result.reason.partition(":")[0]
                            good = result.partial or result.answer == str(len(_CONTEXT))
                            assert good, f"{about}: {result.answer!r}"
                        except RlmWasmError as error:
                            outcome = f"{type(error).__name__}: {error.message}"
                            typed = isinstance(error, REFUSED)
                            assert typed, f"{about}: {outcome}"
                            # Both runs may have been in the worker that lacks something.
                            assert starved, f"{about}: {outcome}"
                    assert not stuck.cancelled_caught, f"stuck: {about}, {events.kinds()[-8:]}"
                    events.assert_complete()
                    tally.faults[f"a run: {strike.name if struck else 'none'}"] += 1
                    tally.outcomes[f"a run: {outcome}"] += 1

                for _ in range(0, count, 2):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(2):
                            tasks.start_soon(one, random.choice(STRIKES), random.randrange(_EVENTS))
                    assert broker.idle, "a permit, a timer, a query or a run is left"
                    _balanced(books)
                    await until(lambda: pool.sessions == 0, TOLD_SECONDS_MAX)
                    while starved:  # what they lack they will lack for ever
                        connection = starved.pop()
                        if connection.lost is None:
                            connection.child.kill()
                        await until(lambda ended=connection: ended.lost is not None)  # type: ignore[misc]
                await _plain(runtime, pool)
                _balanced(books)
                assert not books.runs, "every run's account is closed"


def _balanced(books: Books) -> None:
    # How soon a child stops is a bound of virtual time; here a stopped worker has to be found first.
    wrong = [each for each in books.wrong if "went on after it was told to stop" not in each]
    assert not wrong, wrong


async def _plain(runtime: Runtime, pool: Any) -> None:
    """Without a fault a run finishes. Workers that an earlier one left stopped are found on the way."""
    for _ in range(3):
        try:
            result = await runtime.ask("?", _CONTEXT)
        except RlmWasmError:
            continue
        if not result.partial and result.answer == str(len(_CONTEXT)):
            return
    raise AssertionError("no run finishes after the faults")
