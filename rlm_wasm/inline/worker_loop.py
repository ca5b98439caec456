"""The worker loop: the sessions of this process on a thread of their own, fed through a queue.

Commands come in through the queue; what happens goes out through a callback, on the thread.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final

from rlm_wasm.errors import InternalError, UsageError
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.protocol.commands import Command
from rlm_wasm.system import forks
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.system.standard_descriptors import hold_standard_descriptors
from rlm_wasm.vm import traps
from rlm_wasm.vm.fatal import die
from rlm_wasm.vm.session_scheduler import SessionScheduler
from rlm_wasm.vm.warm_pool import PREPARED_MAX

STOP_SECONDS_MAX: Final = 30.0
_CLOSED: Final = "the worker is closed"
_FORKED: Final = "the worker belongs to the process that this one was forked from"
_ENDING: Final = "the interpreter is ending"
# Nobody wants the thread for so long: then it prepares sessions, a fraction of a millisecond at a time.
IDLE_SECONDS: Final = 0.005
# Who wants to borrow the scheduler waits for so long: a few turns that are brief.
LEND_SECONDS_MAX: Final = 0.0005


class _Word(Enum):
    """What the thread is told beside commands."""

    STOP = auto()
    LOOK = auto()  # who borrowed the scheduler has left it something to do


class WorkerLoop:
    """Runs sessions on a thread of its own, where no signal handler runs, and lends them for a moment.

    While it has nothing to do it prepares sessions ahead of need, at most `prepared_max`. `clock` gives
    nanoseconds; `image` names the packages that its sessions have.
    """

    def __init__(
        self, *, prepared_max: int = PREPARED_MAX, clock: Callable[[], int], image: str = BASE_IMAGE
    ) -> None:
        self._commands: queue.SimpleQueue[Command | _Word] = queue.SimpleQueue()
        load = functools.partial(load_guest_program, image)
        self._scheduler = SessionScheduler(load, prepared_max=prepared_max, clock=clock)
        # Whoever holds it may touch the scheduler: the thread whenever it does not wait, or who borrows them.
        self._baton = threading.Lock()
        # Somebody wants to borrow. Without it the thread would take the baton again before he had a chance.
        self._wanted = False
        self._had_turn = False
        self._idle = False
        self._thread = threading.Thread(target=self._main, name="rlm-wasm-worker", daemon=True)
        self._stopping = False
        # Together: whoever is not refused comes before the end in the queue, and so gets its Done.
        self._door = threading.Lock()
        self._refusing = ""

    def start(self) -> None:
        """Start the thread.

        Raises:
            HostExhausted: the kernel gives this process no thread.
            UsageError: the interpreter is ending.
        """
        _running.add(self)
        if _ending:
            _running.discard(self)
            raise UsageError(_ENDING)
        hold_standard_descriptors()
        forks.add_baton(self._baton)
        forks.disown_in_child(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            _running.discard(self)
            failure = wrap_os_error(error, "no thread for guests can be started", ours=True)
            raise failure from failure.__cause__

    def submit(self, command: Command) -> None:
        """Hand a command to the thread; any thread may call this.

        Raises:
            UsageError: the loop is closed, or another process's.
        """
        with self._door:
            if self._refusing:
                raise UsageError(self._refusing)
            self._commands.put(command)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[SessionScheduler | None]:
        """Lend the scheduler to the calling thread for a moment; None if this loop needs them itself.

        It does while a guest has a turn that may take long.
        """
        self._wanted = True
        if not self._baton.acquire(timeout=0 if self._scheduler.engaged else LEND_SECONDS_MAX):
            self._wanted = False
            self._commands.put(_Word.LOOK)
            yield None
            return
        try:
            yield None if self._refusing else self._scheduler
        finally:
            self._wanted = False
            left = self._scheduler.idle_seconds() is not None
            self._baton.release()
            if left:
                self._commands.put(_Word.LOOK)

    def stop(self) -> None:
        """Close every session and end the thread.

        Raises:
            InternalError: the thread did not end within STOP_SECONDS_MAX.
        """
        self._refuse(_CLOSED)
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive():
            raise InternalError("the worker thread did not stop")

    def end_with_interpreter(self) -> bool:
        """Close every session and end the thread; return whether no guest can run any more."""
        self._refuse(_ENDING)
        self._thread.join(STOP_SECONDS_MAX)
        # Kept: whoever wants to borrow the scheduler from now on gets nothing.
        return not self._thread.is_alive() and self._baton.acquire(timeout=STOP_SECONDS_MAX)

    def disown(self) -> None:
        """In the child of a fork, where there is no thread: refuse everything, free nothing."""
        _kept.append(self._scheduler)
        self._door, self._baton = threading.Lock(), threading.Lock()
        self._refusing = _FORKED
        _running.discard(self)

    def _refuse(self, why: str) -> None:
        with self._door:
            self._refusing = self._refusing or why
            self._commands.put(_Word.STOP)

    @property
    def open_sessions(self) -> int:
        """How many sessions exist; exact only on the worker's thread or when it is idle."""
        return len(self._scheduler)

    # -- the thread ---------------------------------------------------------------------------------

    def _main(self) -> None:
        traps.own_thread()
        try:
            while not self._stopping:
                self._take_commands()
                if self._gives_way():
                    continue
                with self._baton:
                    if self._idle:
                        self._scheduler.prepare()
                    else:
                        self._scheduler.turn()
                self._had_turn = True
        finally:
            with self._door:
                self._refusing = self._refusing or _CLOSED
            with self._baton:
                # Also where a bug ended the thread: nobody who was not refused may wait for ever.
                self._begin_what_is_left()
                self._scheduler.close_all()
            forks.drop_baton(self._baton)
            _running.discard(self)

    def _begin_what_is_left(self) -> None:
        """Begin what waits in the queue, so that closing its session reports its end."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get_nowait()
                if not isinstance(command, _Word):
                    self._scheduler.perform(command)

    def _gives_way(self) -> bool:
        """Whether to leave the scheduler to somebody who wants to borrow them: once after each turn."""
        gives_way = self._wanted and self._had_turn
        self._had_turn = self._had_turn and not gives_way
        return gives_way

    def _take_commands(self) -> None:
        timeout = self._idle_timeout()
        try:
            command = self._commands.get(block=timeout != 0.0, timeout=timeout or None)
        except queue.Empty:
            # Waited as long as that in vain. A sleeper that wakes makes the thread busy again.
            with self._baton:
                self._idle = self._scheduler.idle_seconds() != 0.0
            return
        self._idle = False
        with self._baton, contextlib.suppress(queue.Empty):
            while command is not _Word.STOP:
                if command is not _Word.LOOK:
                    self._scheduler.perform(command)
                if self._wanted:
                    return
                command = self._commands.get_nowait()
            self._stopping = True

    def _idle_timeout(self) -> float | None:
        """How long to wait for a command: not at all where a guest can go on, None for ever."""
        if self._gives_way():
            return None  # who borrows says LOOK when he leaves something to do
        with self._baton:
            timeout = self._scheduler.idle_seconds()
            if timeout != 0.0 and self._scheduler.wants_preparing:
                idle = 0.0 if self._idle else IDLE_SECONDS
                return idle if timeout is None else min(idle, timeout)
            return timeout


# Loops whose thread may run a guest.
_running: Final[set[WorkerLoop]] = set()
# Guests of another process, of which this one has a copy that nothing may touch.
_kept: Final[list[SessionScheduler]] = []
_ending = False


@atexit.register
def _end_all() -> None:
    """Let no guest run while the interpreter is taken down: its calls would find nothing there."""
    global _ending
    _ending = True
    if not all(loop.end_with_interpreter() for loop in tuple(_running)):
        die("a guest did not stop when the interpreter ended")
