"""`CellRequests`: the requests of one cell that a program's functions answer, counted and side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final, TypeVar

import anyio

from rlm_wasm.errors import BudgetExceeded
from rlm_wasm.scheduler.request import Cancelled, Denied, Response

_Item = TypeVar("_Item")


class CellRequests:
    """Counts what a cell asks for, whatever it is; of more than `most` requests it gets a BudgetExceeded."""

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._count = 0

    async def answers(
        self, items: Sequence[_Item], answer: Callable[[_Item], Awaitable[Response]], cancelled: str
    ) -> list[Response]:
        """Return what became of each, in order. Raises what a call raised that is nothing for the guest.

        `cancelled` is what the guest is told where not this was cancelled, but what an answer waited for.
        """
        refused = BudgetExceeded("cell.requests", requested=1, available=0, limit=self._most)
        responses: list[Response] = [Denied(refused)] * len(items)
        room = max(0, self._most - self._count)
        self._count += len(items)
        raised: list[BaseException] = []

        async def one(at: int, item: _Item) -> None:
            try:
                responses[at] = await answer(item)
            except anyio.get_cancelled_exc_class():
                if tasks.cancel_scope.cancel_called or anyio.current_effective_deadline() == -inf:
                    raise
                # Nobody here was cancelled, but something that the function waited for.
                responses[at] = Cancelled(cancelled)
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
                # Raised again below, without the group's wrapping; from a task of its own those that end a
                # program would end the event loop.
                raised.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for at, item in enumerate(items[:room]):
                tasks.start_soon(one, at, item)
        if raised:
            raise raised[0]
        return responses
