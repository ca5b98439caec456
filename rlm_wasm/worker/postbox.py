"""From the worker's thread to the event loop's: calls in the order they were posted, many for one wake-up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from anyio.lowlevel import EventLoopToken


class Postbox:
    """Calls functions on the event loop of `token`. One thread posts; nothing posted may raise."""

    def __init__(self, token: EventLoopToken) -> None:
        self.token = token
        native: Any = token.native_token
        # asyncio's name for it, and trio's.
        self._schedule = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        self._letters: deque[tuple[Callable[[Any], None], object]] = deque()
        self._called = False

    def post(self, function: Callable[[Any], None], argument: object) -> None:
        """Call `function(argument)` on the event loop soon, without waiting for it.

        Raises what the event loop raises when it is closed.
        """
        self._letters.append((function, argument))
        # Waking a loop is a system call and a switch of threads: once for all that is posted until then.
        if not self._called:
            self._called = True
            try:
                self._schedule(self.deliver)
            except BaseException:
                self._called = False
                raise

    def hold(self) -> None:
        """Wake nobody for what is posted from now on: the caller, on the event loop, delivers it soon."""
        self._called = True

    def deliver(self) -> None:
        """Make the calls that were posted. On the event loop's thread only."""
        # First: what is posted while letters are taken out either is among them, or wakes the loop again.
        self._called = False
        letters = self._letters
        while letters:
            function, argument = letters.popleft()
            function(argument)
