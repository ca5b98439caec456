"""Places are given in order, on any event loop, and never lost."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.tools.places import Places

pytestmark = pytest.mark.anyio


@pytest.mark.threat("T-343")
async def test_whoever_waits_longest_gets_the_next_place_on_any_loop() -> None:
    places, order = Places(1), list[int]()
    await places.take()
    waits = threading.Event()

    def elsewhere() -> None:
        async def take() -> None:
            async with anyio.create_task_group() as tasks:

                async def want() -> None:
                    await places.take()
                    order.append(1)
                    places.give()

                tasks.start_soon(want)
                while not places.waiting:
                    await anyio.lowlevel.checkpoint()
                waits.set()

        anyio.run(take)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await anyio.to_thread.run_sync(waits.wait)
    async with anyio.create_task_group() as tasks:

        async def want() -> None:
            await places.take()
            order.append(2)
            places.give()

        tasks.start_soon(want)
        while places.waiting < 2:
            await anyio.lowlevel.checkpoint()
        threading.Thread(target=places.give).start()  # by any thread
    await anyio.to_thread.run_sync(thread.join)
    assert order == [1, 2]
    assert places.taken == 0


async def test_who_is_cancelled_while_it_waits_takes_none() -> None:
    places = Places(1)
    await places.take()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(places.take)
        while not places.waiting:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert places.waiting == 0
    places.give()
    assert places.taken == 0


async def test_a_place_that_is_given_to_whom_is_cancelled_at_that_moment_is_not_lost() -> None:
    places = Places(1)
    await places.take()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(places.take)
        while not places.waiting:
            await anyio.lowlevel.checkpoint()
        places.give()
        tasks.cancel_scope.cancel()
    # It was taken, or given back.
    for _ in range(places.taken):
        places.give()
    await places.take()
    assert places.taken == 1
