"""Conversations of a repeated run act in the recorded order; and when none ever will again, that is seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from rlm_wasm.replay.recorded_event import ConversationId
from rlm_wasm.replay.recorded_order import RecordedOrder, Whose
from rlm_wasm.scheduler.inputs import ChildFinished, Input, RunEnded


@dataclass(slots=True, eq=False)
class Wait:
    """What a conversation waits for: its turn, at which it does `act`, or, without one, an answer."""

    owner: ConversationId
    act: Callable[[], object] | None = None
    void: bool = False


class Turns:
    """Whose turn it is, and who waits: for a turn, or for an answer.

    A conversation that was begun and does not wait does something by itself, within the limits of its
    policy. Where it is the turn of one that waits for an answer, or is gone, and nothing is due from outside,
    nothing can happen any more: the others wait for their turn.
    """

    def __init__(self, order: RecordedOrder) -> None:
        self._order = order
        self._begun: set[ConversationId] = set()
        # A conversation waits for one thing at a time.
        self._waits: dict[ConversationId, Wait] = {}
        self._acts: dict[ConversationId, deque[Wait]] = {}

    def begins(self, owner: ConversationId) -> None:
        """A conversation is about to be driven."""
        self._begun.add(owner)

    def take(self, given: Input) -> bool:
        """Take note of an input of the run itself, and say whether it may come."""
        if isinstance(given, ChildFinished | RunEnded):
            owner = given.request_id if isinstance(given, ChildFinished) else None
            self.stirs(owner)
            self._begun.discard(owner)  # it has done the last that it does
        return self._order.takes(given)

    def waits(self, owner: ConversationId) -> Wait:
        """A conversation waits for an answer, until the wait that is returned is `over`."""
        wait = self._waits[owner] = Wait(owner)
        return wait

    def over(self, wait: Wait) -> None:
        """A wait is over, whatever ended it."""
        wait.void = True
        if self._waits.get(wait.owner) is wait:
            del self._waits[wait.owner]

    def stirs(self, owner: ConversationId) -> None:
        """A conversation is woken from whatever it waits for, and does not do what it waited with."""
        if (wait := self._waits.get(owner)) is not None:
            self.over(wait)

    def are_taken_by(self, owner: ConversationId) -> bool:
        """Whether it is this conversation's turn, or nobody keeps an order any more."""
        return self._order.whose_turn() in (owner, Whose.ANYBODYS)

    def at_turn(self, owner: ConversationId, act: Callable[[], object]) -> Wait:
        """Call `act` when it is the conversation's turn, which it is not now."""
        wait = self._waits[owner] = Wait(owner, act)
        self._acts.setdefault(owner, deque()).append(wait)
        return wait

    @contextmanager
    def waiting(self, owner: ConversationId) -> Iterator[anyio.Event]:
        """Give an event that is set when it is the conversation's turn; nobody waits for it afterwards."""
        came = anyio.Event()
        wait = self.at_turn(owner, came.set)
        try:
            yield came
        finally:
            self.over(wait)

    def next_act(self) -> Callable[[], object] | None:
        """Return what is to be done now by who waited for his turn, if there is anything."""
        owner = self._order.whose_turn()
        while self._acts:
            whose = next(iter(self._acts)) if owner is Whose.ANYBODYS else owner
            acts = self._acts.get(whose, deque())
            while acts:
                wait = acts.popleft()
                if not wait.void and wait.act is not None:
                    self.over(wait)
                    return wait.act
            self._acts.pop(whose, None)
            if whose == owner:
                break
        return None

    @property
    def stand_still(self) -> bool:
        """Whether nothing more can come. To be asked where nothing is due, and nobody waits for this turn."""
        owner = self._order.whose_turn()
        return owner is not Whose.ANYBODYS and (owner in self._waits or owner not in self._begun)

    def give_up(self) -> None:
        """Let everybody go on: nothing of what the recording has next can come."""
        self._order.stands_still()
