"""An event loop's way to the worker thread of its own process, and past it where that is shorter."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.ids import SessionId
from rlm_wasm.inline.disturbance import Disturbance
from rlm_wasm.inline.loop_mailbox import LoopMailbox
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.protocol.commands import AnswerRequest, Close, Command, InterruptOperation

# For so long, and a guest's slice, an event loop runs guests before it looks at its other work again.
ROUND_NS_MAX: Final = 1_000_000
# Responses that the thread gets in one round. Where it is in the way for a moment, the others are not for it.
FOR_THREAD_MAX: Final = 8


class InlineConnection:
    """Takes an event loop's commands to the worker loop. To be used on the event loop's thread only.

    Most guests ask again a few microseconds after they were answered. Waking the thread for that, and
    being woken by it, takes several times as long, so where it can the event loop runs that turn itself:
    in a callback of its own, and only while nothing could disturb them there. Guests that compute are the
    thread's. `clock` gives nanoseconds.
    """

    def __init__(
        self,
        loop: WorkerLoop,
        loop_mailbox: LoopMailbox,
        clock: Callable[[], int],
        disturbance: Disturbance | None = None,
    ) -> None:
        self.loop_mailbox: Final = loop_mailbox
        self._clock: Final = clock
        self._loop = loop
        self._disturbance: Final = disturbance or Disturbance()
        # What the last look found: one a round, and one a response while there is no round.
        self._disturbed = False
        # What guests are to be answered: each waits for one response at most.
        self._responses: OrderedDict[SessionId, AnswerRequest] = OrderedDict()
        # Those whose interrupt the thread may not have seen yet.
        self._interrupted: set[SessionId] = set()

    def submit(self, command: Command) -> None:
        """Have a command performed; those of one session in the order in which they were given.

        Raises:
            UsageError: the loop is closed.
        """
        if isinstance(command, AnswerRequest):
            if command.session not in self._interrupted and not self._still_disturbed():
                self._responses[command.session] = command
                if len(self._responses) == 1:
                    self.loop_mailbox.call_soon(self._respond)
                return
            self._interrupted.discard(command.session)
        elif (response := self._responses.pop(command.session, None)) is not None:
            self._loop.submit(response)
        if isinstance(command, InterruptOperation):
            self._interrupted.add(command.session)
        elif isinstance(command, Close):
            self._interrupted.discard(command.session)
        self._loop.submit(command)

    def _still_disturbed(self) -> bool:
        self._disturbed = self._disturbed and self._disturbance.possible()
        return self._disturbed

    def _respond(self) -> None:
        """Answer the guests that wait, one after the other, for a while."""
        if not self._responses:
            return
        disturbed = self._disturbed = self._disturbance.possible()
        until_ns, for_thread = self._clock() + ROUND_NS_MAX, 0
        try:
            self.loop_mailbox.hold()
            with self._loop.borrowed() as scheduler:
                while self._responses and for_thread < FOR_THREAD_MAX and self._clock() < until_ns:
                    _, response = self._responses.popitem(last=False)
                    if scheduler is None or disturbed or not scheduler.answer(response):
                        for_thread += 1
                        with contextlib.suppress(UsageError):  # closed meanwhile, and so is the guest
                            self._loop.submit(response)
        finally:
            if self._responses:
                self.loop_mailbox.call_soon(self._respond)
            self.loop_mailbox.deliver()
