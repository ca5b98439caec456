"""The real worker loop without its thread: the virtual event loop gives it its turns."""

from __future__ import annotations

import contextlib
import heapq
import queue
from collections.abc import Callable
from random import Random

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.worker.inline import InlineWorker
from rlm_wasm.worker.loop import Command, Done, Open, WorkerLoop, _Seat
from tests.simulation.event_loop import VirtualLoop
from tests.simulation.guest import Guest, SimulatedSession

_NOTICE_NS_MAX = 60_000  # until the thread sees a command


class SimulatedLoop(WorkerLoop):
    """Takes commands, drives sessions and reports as the thread does, at moments that the seed chooses.

    `refuse()` may return an error with which the next session does not open.
    """

    def __init__(
        self,
        events: VirtualLoop,
        random: Random,
        wrong: Callable[[str], None],
        refuse: Callable[[], RlmWasmError | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._events = events
        self._random = random
        self._refuse_open = refuse
        self._turn_number = 0
        self._turn_ns: int | None = None  # when the next turn comes
        self._free_ns = 0  # until then the guest whose turn it was computes
        self.guest = Guest(events.clock, self._work, wrong)
        self.opened = 0

    @property
    def idle(self) -> bool:
        """Whether no session is open and no command waits."""
        return not self._seats and self._commands.empty()

    def start(self) -> None:
        """Begin nothing: commands bring the turns."""

    def submit(self, command: Command) -> None:
        super().submit(command)
        self._come(self._events.now_ns + self._random.randrange(_NOTICE_NS_MAX))

    def stop(self) -> None:
        with self._door:
            self._refusing = True
            self._commands.put(None)
        self._take_commands()
        for session in list(self._seats):
            self._close(session)

    def _come(self, at_ns: int) -> None:
        at_ns = max(at_ns, self._free_ns, self._events.now_ns)
        if self._turn_ns is None or at_ns < self._turn_ns:
            self._turn_ns = at_ns
            self._turn_number += 1
            number = self._turn_number
            self._events.outside(at_ns - self._events.now_ns, lambda: self._turn(number))

    def _turn(self, number: int) -> None:
        """What the thread does between two looks at its queue."""
        if self._refusing or number != self._turn_number:
            return
        self._turn_ns = None
        self._free_ns = self._events.now_ns + self._random.randrange(5_000)
        self._take_commands()
        self._wake_sleepers()
        if self._runnable:
            self._advance(self._runnable.popleft())
        if self._runnable or not self._commands.empty():
            self._come(self._events.now_ns)
        elif self._sleepers:
            self._come(self._sleepers[0][0])

    def _work(self, ns: int) -> None:
        self._free_ns += ns

    def _take_commands(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (command := self._commands.get_nowait()) is not None:
                self._perform(command)

    def _wake_sleepers(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._events.now_ns:
            _, session = heapq.heappop(self._sleepers)
            seat = self._seats.get(session)
            if seat is not None and seat.operation is not None and not seat.waits_for_host:
                self._queue(session, seat)

    def _open(self, command: Open) -> None:
        error = self._refuse_open()
        if error is not None:
            self._refuse(command, error)
            return
        self.opened += 1
        session = SimulatedSession(self.guest, command.limits, command.boundary, command.start)
        seat = self._seats[command.session] = _Seat(session, command.sink)  # type: ignore[arg-type]
        self._tell(command.session, seat, Done())


class SimulatedWorker(InlineWorker):
    """The real inline worker over a simulated loop."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop
        self.loop = loop

    async def aclose(self) -> None:
        if self._started:
            self._started = False
            self.loop.stop()
