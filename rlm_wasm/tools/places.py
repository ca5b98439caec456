"""`Places`: how many calls may be under way, whatever threads and event loops they are on."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

import anyio

from rlm_wasm.system.loop_calls import CallSoon, caller_of_this_loop


class Places:
    """So many places, given in the order in which they are wanted.

    One is taken on an event loop and given back by any thread: by the call's own, which may come back long
    after everybody has stopped waiting for it.
    """

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self._lock: Final = threading.Lock()
        self._taken = 0
        self._waiting: deque[tuple[CallSoon, anyio.Event]] = deque()

    @property
    def taken(self) -> int:
        """How many are not free."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    async def take(self) -> None:
        """Wait for a place; cancelled, none was taken."""
        with self._lock:
            if self._taken < self.most:
                self._taken += 1
                return
            wanted = (caller_of_this_loop(), anyio.Event())
            self._waiting.append(wanted)
        try:
            await wanted[1].wait()
        except BaseException:
            with self._lock:
                given = wanted not in self._waiting
                if not given:
                    self._waiting.remove(wanted)
            if given:  # at the same moment
                self.give()
            raise

    def give(self) -> None:
        """Give a place back, to who waits longest for one."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._taken -= 1
                    return
                soon, given = self._waiting.popleft()
            try:
                soon(given.set)
            except RuntimeError:
                continue  # its event loop is over
            return
