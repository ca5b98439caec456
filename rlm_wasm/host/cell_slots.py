"""Slots to compute: at most so many cells of one tenant at one moment, in the order in which they asked.

A cell_slot is what a cell computes between its beginning, its waits for the host, and its end. While it waits
for the host it takes nobody's place, so a parent whose child waits for a place never holds it. Not for
more than one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio


class CellSlots:
    """The tenants' places to compute: `cells_max` each."""

    def __init__(self, cells_max: int) -> None:
        self._cells_max: Final = cells_max
        self._computing: dict[str, int] = {}
        self._waiting: dict[str, dict[CellSlot, Callable[[], None]]] = {}

    def cell_slot(self, tenant: str) -> CellSlot:
        """Return the cell_slot of one session."""
        return CellSlot(self, tenant)

    def computing(self, tenant: str) -> int:
        """Return how many cells of a tenant compute."""
        return self._computing.get(tenant, 0)

    def waiting(self, tenant: str) -> int:
        """Return how many cells of a tenant wait for a place."""
        return len(self._waiting.get(tenant, ()))

    def enter(self, cell_slot: CellSlot, tenant: str, then: Callable[[], None] | None) -> bool:
        """Give a place, now if there is one; else later, and call `then` at that moment if there is one."""
        computing = self._computing.get(tenant, 0)
        if computing < self._cells_max:
            self._computing[tenant] = computing + 1
            return True
        if then is not None:
            self._waiting.setdefault(tenant, {})[cell_slot] = then
        return False

    def hurry(self, cell_slot: CellSlot, tenant: str) -> Callable[[], None] | None:
        """Give who waits a place beyond the limit; return what it waited to do, None if it did not wait."""
        then = self.withdraw(cell_slot, tenant)
        if then is not None:
            self._computing[tenant] = self._computing.get(tenant, 0) + 1
        return then

    def withdraw(self, cell_slot: CellSlot, tenant: str) -> Callable[[], None] | None:
        """Take one that waits out of the line; return what it waited to do, None if it did not wait."""
        line = self._waiting.get(tenant)
        then = None if line is None else line.pop(cell_slot, None)
        if line is not None and not line:
            del self._waiting[tenant]
        return then

    def leave(self, tenant: str) -> tuple[CellSlot, Callable[[], None]] | None:
        """Take a place back; return who gets it and what that one waited to do, if anybody waits."""
        self._computing[tenant] -= 1
        line = self._waiting.get(tenant)
        if line and self._computing[tenant] < self._cells_max:
            cell_slot = next(iter(line))
            then = line.pop(cell_slot)
            if not line:
                del self._waiting[tenant]
            self._computing[tenant] += 1
            return cell_slot, then
        if not self._computing[tenant]:
            del self._computing[tenant]
        return None


class CellSlot:
    """One session's place to compute: it has it, waits for it, or wants none."""

    __slots__ = ("_cell_slots", "_held", "_tenant")

    def __init__(self, cell_slots: CellSlots, tenant: str) -> None:
        self._cell_slots = cell_slots
        self._tenant = tenant
        self._held = False

    def begin(self, then: Callable[[], None] | None = None) -> bool:
        """Return whether it may compute from now on; if not, `then` is called once it may."""
        self._held = self._held or self._cell_slots.enter(self, self._tenant, then)
        return self._held

    async def begun(self) -> None:
        """Wait until it may compute. Cancelled, it has to be ended as well."""
        came = anyio.Event()
        if not self.begin(came.set):
            await came.wait()

    def hurry(self) -> None:
        """Let it compute now if it waits: it is to end, and the sooner the better."""
        then = self._cell_slots.hurry(self, self._tenant)
        if then is not None:
            self._held = True
            then()

    def end(self) -> None:
        """Note that it computes no more, and does not want to. Safe to say again."""
        if not self._held:
            self._cell_slots.withdraw(self, self._tenant)
            return
        self._held = False
        after = self._cell_slots.leave(self._tenant)
        if after is not None:
            cell_slot, then = after
            cell_slot._held = True
            then()
