"""The worker loop: the sessions of this process on a thread of their own, fed through a queue.

Commands come in through the queue; what happens goes out through a callback, on the thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Final

from rlm_wasm.errors import InternalError, UsageError
from rlm_wasm.sandbox.stock import PREPARED_MAX
from rlm_wasm.worker.commands import Command
from rlm_wasm.worker.seats import Seats

STOP_SECONDS_MAX: Final = 30.0
# Nobody wants the thread for so long: then it prepares sessions, a fraction of a millisecond at a time.
IDLE_SECONDS: Final = 0.005


class WorkerLoop:
    """Runs sessions on a thread of its own, never the main one: no signal handler runs there.

    While it has nothing to do it prepares sessions ahead of need, at most `prepared_max`.
    """

    def __init__(self, *, prepared_max: int = PREPARED_MAX) -> None:
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._seats = Seats(prepared_max=prepared_max)
        self._idle = False
        self._thread = threading.Thread(target=self._main, name="rlm-wasm-worker", daemon=True)
        self._stopping = False
        # Together: whoever is not refused comes before the end in the queue, and so gets its Done.
        self._door = threading.Lock()
        self._refusing = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Hand a command to the thread; any thread may call this.

        Raises:
            UsageError: the loop is closed.
        """
        with self._door:
            if self._refusing:
                raise UsageError("the worker is closed")
            self._commands.put(command)

    def stop(self) -> None:
        """Close every session and end the thread.

        Raises:
            InternalError: the thread did not end within STOP_SECONDS_MAX.
        """
        with self._door:
            self._refusing = True
            self._commands.put(None)
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive():
            raise InternalError("the worker thread did not stop")

    @property
    def open_sessions(self) -> int:
        """How many sessions exist; exact only on the worker's thread or when it is idle."""
        return len(self._seats)

    # -- the thread ---------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._take_commands()
                if self._idle:
                    self._seats.prepare()
                else:
                    self._seats.turn()
        finally:
            with self._door:
                self._refusing = True
            self._seats.close_all()

    def _take_commands(self) -> None:
        timeout = self._seats.idle_seconds()
        if timeout != 0.0 and self._seats.wants_preparing:
            patience = 0.0 if self._idle else IDLE_SECONDS
            timeout = patience if timeout is None else min(patience, timeout)
        try:
            command = self._commands.get(block=timeout != 0.0, timeout=timeout or None)
        except queue.Empty:
            # Waited as long as that in vain. A sleeper that wakes makes the thread busy again.
            self._idle = self._seats.idle_seconds() != 0.0
            return
        self._idle = False
        with contextlib.suppress(queue.Empty):
            while True:
                if command is None:
                    self._stopping = True
                    return
                self._seats.perform(command)
                command = self._commands.get_nowait()
