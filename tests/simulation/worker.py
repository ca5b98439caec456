"""The real worker loop without its thread: the virtual event loop gives it its turns."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from math import ceil
from random import Random

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.inline.connection import InlineConnection
from rlm_wasm.inline.disturbance import Disturbance
from rlm_wasm.inline.loop_mailbox import LoopMailbox
from rlm_wasm.inline.worker import InlineWorker
from rlm_wasm.inline.worker_loop import WorkerLoop, _Word
from rlm_wasm.protocol.commands import Command, Done, Open
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session_scheduler import SessionScheduler, _Driven
from tests.simulation.event_loop import VirtualLoop
from tests.simulation.guest import Guest, SimulatedSession

_NOTICE_NS_MAX = 60_000  # until the thread sees a command
_IN_THE_WAY = 0.3  # how often the thread has the scheduler when the event loop wants them
_HURRIED = 0.03  # how often time has passed since somebody looked at the clock last
_PASSED_NS_MAX = 3_000_000


def hurried(events: VirtualLoop, random: Random) -> Callable[[], int]:
    """Return a clock for who looks at it twice in one callback: time may have passed, as the seed decides."""
    passed_ns = 0

    def clock() -> int:
        nonlocal passed_ns
        if random.random() < _HURRIED:
            passed_ns += random.randrange(_PASSED_NS_MAX)
        return events.now_ns + passed_ns

    return clock


class Undisturbed(Disturbance):
    """Nothing here is the application's."""

    def possible(self) -> bool:
        return False


def no_guest() -> LoadedGuest:
    raise AssertionError("a real guest was asked for")


class SimulatedSeats(SessionScheduler):
    """The real scheduler with simulated sessions in them.

    `refuse()` may return an error with which the next session does not open.
    """

    def __init__(self, events: VirtualLoop, guest: Guest, refuse: Callable[[], RlmWasmError | None]) -> None:
        super().__init__(no_guest, prepared_max=0, clock=events.clock)
        self._guest = guest
        self._refuse_open = refuse
        self.opened = 0

    def _open(self, command: Open) -> None:
        error = self._refuse_open()
        if error is not None:
            self._refuse(command, error)
            return
        self.opened += 1
        session = SimulatedSession(self._guest, command.limits, command.boundary, command.start)
        seat = self._scheduler[command.session] = _Driven(session, command.sink)  # type: ignore[arg-type]
        self._tell(command.session, seat, Done())


class SimulatedLoop(WorkerLoop):
    """Takes commands, drives sessions and reports as the thread does, at moments that the seed chooses."""

    def __init__(
        self,
        events: VirtualLoop,
        random: Random,
        wrong: Callable[[str], None],
        refuse: Callable[[], RlmWasmError | None] = lambda: None,
        fails: Callable[[str], bool] = lambda resource: False,
        starting: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(clock=events.clock)
        self._starting = starting
        self._events = events
        self._random = random
        self._turn_number = 0
        self._turn_ns: int | None = None  # when the next turn comes
        self._free_ns = 0  # until then the guest whose turn it was computes
        self.guest = Guest(events.clock, self._work, wrong, fails)
        self.scheduler = self._scheduler = SimulatedSeats(events, self.guest, refuse)

    @property
    def opened(self) -> int:
        """How many sessions were opened so far."""
        return self.scheduler.opened

    @property
    def idle(self) -> bool:
        """Whether no session is open and no command waits."""
        return not self._scheduler and self._commands.empty()

    def start(self) -> None:
        """Begin nothing: commands bring the turns."""

    def submit(self, command: Command) -> None:
        super().submit(command)
        if isinstance(command, Open):
            self._starting()
        self._come(self._events.now_ns + self._random.randrange(_NOTICE_NS_MAX))

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[SessionScheduler | None]:
        """Lend the scheduler as the thread does, unless it computes; it may also just be in the way."""
        if self._events.now_ns < self._free_ns or self._random.random() < _IN_THE_WAY:
            yield None
            return
        self._free_ns = self._events.now_ns
        with super().borrowed() as scheduler:
            yield scheduler
        if (idle := self._scheduler.idle_seconds()) is not None:
            self._come(self._events.now_ns + ceil(idle * 1e9))

    def stop(self) -> None:
        self._refuse("the worker is closed")
        self._take_commands()
        self._scheduler.close_all()

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
        self._scheduler.turn()
        idle = 0.0 if not self._commands.empty() else self._scheduler.idle_seconds()
        if idle is not None:
            self._come(self._events.now_ns + ceil(idle * 1e9))

    def _work(self, ns: int) -> None:
        self._free_ns += ns

    def _take_commands(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (command := self._commands.get_nowait()) is not _Word.STOP:
                if command is not _Word.LOOK:
                    self._scheduler.perform(command)


class SimulatedWorker(InlineWorker):
    """The real inline worker over a simulated loop."""

    def __init__(self, loop: SimulatedLoop, clock: Callable[[], int]) -> None:
        super().__init__(clock=clock)
        self._loop = loop
        self.loop = loop

    def _make_link(self, postbox: LoopMailbox) -> InlineConnection:
        # No signal comes into a simulation.
        return InlineConnection(self._loop, postbox, self._clock, Undisturbed())

    async def aclose(self) -> None:
        self._closed = True
        if self._started:
            self._started = False
            self.loop.stop()
