"""The way of a cell's fuel: reserved in parts while it runs, settled once when it ends.

A cell begins with a part of what it may use and asks for the next one before that is used up. All of it
at once would leave nothing for the cells that compute beside it, and for those that wait for them; none
of it reserved, as many cells as there are would each use what is left. After every method the ledger
holds what each cell may still use, so fuel that is spent and reserved never exceeds a limit.
"""

from __future__ import annotations

from typing import Final

from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.effect_buffer import EffectBuffer
from rlm_wasm.scheduler.effects import GiveFuel
from rlm_wasm.scheduler.inputs import CellStarted
from rlm_wasm.scheduler.ledger import Charge, Dimension
from rlm_wasm.scheduler.run_state import RunState

# A part is a sixteenth of what a cell may use, and at most an eighth of what there is for it: many cells at
# once get smaller parts and not nothing. A part below the least is not worth a wait for the host.
CELL_PARTS: Final = 16
SHARES: Final = 8
PART_FUEL_MIN: Final = 10_000_000


def next_part(cell_fuel_max: int, granted: int, available: int) -> int:
    """Return how much more a cell gets that was granted so much; 0 is the end of it."""
    part = max(cell_fuel_max // CELL_PARTS, PART_FUEL_MIN)
    share = max(available // SHARES, PART_FUEL_MIN)
    return max(0, min(part, share, available, cell_fuel_max - granted))


class FuelFlow:
    """Gives the cells of every conversation their fuel. A cell's reservation is its conversation's."""

    def __init__(self, buffer: EffectBuffer) -> None:
        self._buffer = buffer

    def cell_started(self, run: RunState, conversation: ConversationState, given: CellStarted) -> bool:
        """Let a cell begin with its first part; return False if there is none left for it."""
        self.close(run, conversation)
        if run.stopping is not None or conversation.stopping is not None:
            # Not recorded: whether a cell still begins before it is stopped is chance.
            self._give(run, conversation, 0)
            return True
        conversation.begin_cell()
        fuel = self._next(run, conversation)
        if fuel:
            conversation.fuel = run.ledger.reserve(Charge(fuel=fuel), conversation.view)
            conversation.fuel_granted = fuel
            data: dict[str, object] = {"cell": given.cell, "source_bytes": given.source_bytes, "fuel": fuel}
            self._buffer.record(run, "cell_started", data, conversation.depth, conversation.request_id)
        self._give(run, conversation, fuel)
        return fuel > 0

    def wanted(self, run: RunState, conversation: ConversationState) -> None:
        """Give a cell its next part, or nothing: then it has to end with what it has."""
        if conversation.fuel is None or run.stopping is not None or conversation.stopping is not None:
            self._give(run, conversation, 0)
            return
        fuel = self._next(run, conversation)
        if fuel:
            run.ledger.extend(conversation.fuel, Charge(fuel=fuel))
            conversation.fuel_granted += fuel
        # Also of nothing: what a cell came to depends on when it was refused.
        data: dict[str, object] = {"fuel": fuel, "granted": conversation.fuel_granted}
        self._buffer.record(run, "fuel_granted", data, conversation.depth, conversation.request_id)
        self._give(run, conversation, fuel)

    def used(self, run: RunState, conversation: ConversationState, fuel: int | None) -> None:
        """Settle a cell: what it used, or all that it was granted if nobody knows (None)."""
        reservation, conversation.fuel = conversation.fuel, None
        granted, conversation.fuel_granted = conversation.fuel_granted, 0
        used = granted if fuel is None else fuel
        if reservation is None:
            run.ledger.absorb(Charge(fuel=used), conversation.view)  # it has happened, whoever allowed it
        else:
            run.ledger.settle(reservation, Charge(fuel=used))
        self._record(run, conversation, used)

    def used_by_nobody(self, run: RunState, fuel: int | None) -> None:
        """Charge the run with what a conversation used that is gone, and so is what was reserved for it."""
        run.ledger.absorb(Charge(fuel=fuel or 0), run.root.view)
        self._record(run, run.root, fuel or 0)

    def _record(self, run: RunState, conversation: ConversationState, used: int) -> None:
        data: dict[str, object] = {"fuel": used, "total": run.ledger.spent(Dimension.FUEL)}
        self._buffer.record(run, "fuel_used", data, conversation.depth, conversation.request_id)

    def close(self, run: RunState, conversation: ConversationState) -> None:
        """Settle what a conversation still holds: it is over, and nothing more will be heard of its cell."""
        if conversation.fuel is not None:
            self.used(run, conversation, None)

    @staticmethod
    def _next(run: RunState, conversation: ConversationState) -> int:
        available = run.ledger.available(Dimension.FUEL, conversation.view)
        return next_part(run.facts.cell_fuel_max, conversation.fuel_granted, available)

    def _give(self, run: RunState, conversation: ConversationState, fuel: int) -> None:
        self._buffer.add(GiveFuel(run.run_id, conversation.request_id, fuel))
