"""The event loop and process that an object of the host's belongs to; calls from elsewhere are refused.

Used anywhere else it would wait for a wake that goes to another loop, or speak to a process of another
host. One check, at each way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anyio.lowlevel import current_token

from rlm_wasm.errors import UsageError
from rlm_wasm.system import forks


class Affinity:
    """The event loop that runs where this is made, in this process."""

    __slots__ = ("_lineage", "_loop", "_running")

    def __init__(self) -> None:
        self._lineage = forks.lineage()
        self._loop = current_token().native_token
        # asyncio's own question costs a tenth of anyio's, and has an answer in callbacks of the loop too.
        self._running: Callable[[], object] = (
            asyncio._get_running_loop if isinstance(self._loop, asyncio.AbstractEventLoop) else _running
        )

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one it belongs to, so that nothing is to be closed here."""
        return forks.lineage() != self._lineage

    @property
    def is_here(self) -> bool:
        """Whether that event loop runs on this thread."""
        return self._running() is self._loop

    def check(self, what: str) -> None:
        """Check that this is where `what` belongs.

        Raises:
            UsageError: another event loop runs here, or none, or this is a fork of that process.
        """
        if self.inherited:
            raise UsageError(
                f"{what} belongs to the process that this one was forked from",
                hint="open a sandbox or a runtime of its own in each process",
            )
        if not self.is_here:
            raise UsageError(
                f"{what} belongs to another event loop",
                hint="use it from tasks and callbacks of the loop it was opened on; from another thread, "
                "through `anyio.from_thread` or `loop.call_soon_threadsafe`",
            )


def require_no_loop(what: str, instead: str) -> None:
    """Check that no event loop runs on this thread, where somebody is about to wait for another one.

    `instead` says what to do where one runs.

    Raises:
        UsageError: there is one.
    """
    if asyncio._get_running_loop() is not None or _running() is not None:
        raise UsageError(f"{what} was called where an event loop runs", hint=instead)


def _running() -> object:
    try:
        return current_token().native_token
    except RuntimeError:  # there is none
        return None
