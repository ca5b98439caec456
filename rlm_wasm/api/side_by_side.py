"""`side_by_side`: so many pieces of work, so many of them at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel


async def side_by_side(count: int, parallel_max: int, one: Callable[[int], Awaitable[object]]) -> None:
    """Await `one` of each number below `count`, which begin in order, `parallel_max` at a time.

    What one of them raises cancels the others and is raised, without a group around it.
    """
    numbers = iter(range(count))
    raised: list[BaseException] = []

    async def work() -> None:
        try:
            for number in numbers:
                await one(number)
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
            # Raised again below; from a task of its own those that end a program would end the event loop.
            raised.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(min(count, parallel_max)):
            tasks.start_soon(work)
    if raised:
        raise raised[0]
    await anyio.lowlevel.checkpoint_if_cancelled()  # what was done would be lost with whoever is cancelled
