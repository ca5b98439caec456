"""A mailbox from the worker's thread to the event loop: callbacks in order, many for one wake-up."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from anyio.lowlevel import EventLoopToken

# Callbacks are taken out for so long, then the event loop has its turn: whoever posts may be as fast.
DELIVER_NS_MAX: Final = 1_000_000


class LoopMailbox:
    """Calls functions on the event loop of `token`. One thread posts; nothing posted may raise.

    `clock` gives nanoseconds.
    """

    def __init__(self, token: EventLoopToken, clock: Callable[[], int]) -> None:
        self.token = token
        self._clock: Final = clock
        native: Any = token.native_token
        # asyncio's name for it, and trio's.
        self._schedule = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        # On the event loop's own thread.
        self.call_soon: Final[Callable[..., object]] = (
            getattr(native, "call_soon", None) or native.run_sync_soon
        )
        self._callbacks: deque[tuple[Callable[[Any], None], object]] = deque()
        # Whether the event loop is about to take callbacks out, so that nobody has to wake it.
        self._called = False
        # Whether it would do so without who holds it, too.
        self._due = False

    def post(self, function: Callable[[Any], None], argument: object) -> None:
        """Call `function(argument)` on the event loop soon, without waiting for it.

        Raises what the event loop raises when it is closed.
        """
        self._callbacks.append((function, argument))
        # Waking a loop is a system call and a switch of threads: once for all that is posted until then.
        if not self._called:
            self._called = True
            try:
                self._schedule(self._deliver)
            except BaseException:
                self._called = False
                raise

    def hold(self) -> None:
        """Wake nobody for what is posted from now on: the caller, on the event loop, delivers it soon."""
        self._due = self._called
        self._called = True

    def deliver(self) -> None:
        """Make the calls that were posted, for a while; soon the others. By who holds it, no one else."""
        if not self._due:
            self._called = False
        self._take()

    def _deliver(self) -> None:
        # First: what is posted while callbacks are taken out either is among them, or wakes the loop again.
        self._called = False
        self._take()

    def _take(self) -> None:
        callbacks = self._callbacks
        until_ns = self._clock() + DELIVER_NS_MAX
        try:
            while callbacks:
                function, argument = callbacks.popleft()
                function(argument)
                if self._clock() >= until_ns:
                    break
        finally:
            if callbacks and not self._called:
                self._called = True
                with contextlib.suppress(RuntimeError):  # the loop ends, and with it who waits
                    self.call_soon(self._deliver)
