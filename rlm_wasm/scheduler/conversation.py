"""One conversation of a run, the root's or a child's, and the life of a child as a table.

A child is RECEIVED, is RUNNING once admitted, and may be asked to end with the best it has (ENDING).
Its request is answered once: when the child has finished, or before, if nobody waits for it any more
or its time is up. Then it is ABANDONED until its session is gone. It keeps its place among the
sessions of its run until it is GONE.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.inputs import ChildRequested
from rlm_wasm.scheduler.ledger import View


class ChildState(StrEnum):
    """Where a child is. RECEIVED holds a reservation; RUNNING and ENDING still owe a response."""

    RECEIVED = "received"
    RUNNING = "running"
    ENDING = "ending"
    ABANDONED = "abandoned"
    GONE = "gone"


class ChildStep(StrEnum):
    """What moves a child on."""

    START = "start"  # admitted: its session is made
    END = "end"  # its part of the budget is used up: it may still give its best answer
    ABANDON = "abandon"  # answered from outside: its deadline, or its parent's end
    FINISH = "finish"  # its conversation is over and its session gone


CHILD_TRANSITIONS: Final[dict[ChildState, dict[ChildStep, ChildState]]] = {
    ChildState.RECEIVED: {ChildStep.START: ChildState.RUNNING},
    ChildState.RUNNING: {
        ChildStep.END: ChildState.ENDING,
        ChildStep.ABANDON: ChildState.ABANDONED,
        ChildStep.FINISH: ChildState.GONE,
    },
    ChildState.ENDING: {ChildStep.ABANDON: ChildState.ABANDONED, ChildStep.FINISH: ChildState.GONE},
    ChildState.ABANDONED: {ChildStep.FINISH: ChildState.GONE},
    ChildState.GONE: {},
}


@dataclass(slots=True)
class ConversationState:
    """A conversation: what it may use, what it has open. `asked` is None for the root's."""

    depth: int
    view: View
    deadline_ns: int
    parent: ConversationState | None = None
    asked: ChildRequested | None = None
    model: str = ""
    timeout_ms: int = 0
    state: ChildState = ChildState.RECEIVED
    stopping: StopReason | None = None  # why it takes no more requests
    # What it asked for and has no response to: queries and children by the same numbers.
    open: dict[RequestId, None] = field(default_factory=dict)
    cell_requests: int = 0
    cell_children: int = 0
    iterations: int = 0
    reservation: int | None = None
    # What the ledger holds for the cell that it runs now, and how much of it that is.
    fuel: int | None = None
    fuel_granted: int = 0

    @property
    def request_id(self) -> RequestId | None:
        """The request that it answers; None for the root's."""
        return self.asked.request_id if self.asked else None

    @property
    def deadline_timer(self) -> str:
        """The timer that ends it."""
        return f"child_deadline:{self.request_id}"

    @property
    def owes_a_response(self) -> bool:
        """Whether its request is still to be answered."""
        return self.state in (ChildState.RUNNING, ChildState.ENDING)

    def step(self, step: ChildStep) -> None:
        """Move on by the table; a step that it does not have is an InternalError."""
        try:
            self.state = CHILD_TRANSITIONS[self.state][step]
        except KeyError:
            raise InternalError(f"a {self.state.value} child cannot {step.value}") from None

    def begin_cell(self) -> None:
        """Count the requests of a cell from nothing."""
        self.cell_requests = self.cell_children = 0
