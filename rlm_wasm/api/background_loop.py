"""`BackgroundLoop`: an event loop on a thread of its own, for callers that are not async."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from rlm_wasm.errors import UsageError
from rlm_wasm.host.affinity import Affinity, require_no_loop

_T = TypeVar("_T")
_P = ParamSpec("_P")


class BackgroundLoop:
    """Runs what is async for threads that wait. `what` is what was opened there, in the words of an error.

    Any thread may call, several at once too; each waits for its own call only. On a thread where an event
    loop runs every call is refused: it would stand still meanwhile.
    """

    def __init__(self, what: str, *, instead: str) -> None:
        self._what: Final = what
        self._instead: Final = instead
        self._portal: BlockingPortal | None = None
        self._home: Affinity | None = None
        self._stack = ExitStack()

    def open(self, opened: AbstractAsyncContextManager[Any]) -> None:
        """Start the loop and enter what is to be there. Raises what that raises, and UsageError as `call`."""
        require_no_loop(self._what, self._instead)
        if self._portal is not None:
            raise UsageError(f"{self._what} is open already")
        with ExitStack() as stack:
            stack.callback(self._forget)
            self._portal = portal = stack.enter_context(start_blocking_portal())
            self._home = portal.call(Affinity)
            # One task enters and leaves it, as its task groups demand.
            stack.enter_context(portal.wrap_async_context_manager(opened))
            self._stack = stack.pop_all()

    def close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave what was entered and end the loop. In the child of a fork there is nothing to leave."""
        if self.inherited:
            return False
        return bool(self._stack.__exit__(kind, error, trace))

    @property
    def inherited(self) -> bool:
        """Whether it was opened in the process that this one was forked from: nothing of it is here."""
        return self._home is not None and self._home.inherited

    def _forget(self) -> None:
        self._portal = self._home = None

    def call(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call an async function there, and wait for what it returns or raises.

        What interrupts the wait, as Ctrl-C does, cancels the call and waits until it has ended.

        Raises:
            UsageError: nothing is open, or this is a fork of the process where it was opened, or an event
                loop runs on this thread.
        """
        portal = self._opened()
        ended = threading.Event()

        async def run() -> _T:
            try:
                return await function(*args, **kwargs)
            finally:
                ended.set()

        future = portal.start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait()
            raise

    def do(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function there that returns at once. Raises what it raises, and UsageError as `call`."""
        portal = self._opened()
        return portal.start_task_soon(_call, lambda: function(*args, **kwargs)).result()

    def _opened(self) -> BlockingPortal:
        require_no_loop(self._what, self._instead)
        portal = self._portal
        if portal is None:
            raise UsageError(f"{self._what} is not open", hint="use it in a `with` statement")
        if self.inherited:
            raise UsageError(
                f"{self._what} belongs to the process that this one was forked from",
                hint="open one of its own in each process",
            )
        return portal


async def _call(function: Callable[[], _T]) -> _T:
    return function()
