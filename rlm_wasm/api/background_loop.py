"""`BackgroundLoop`: an event loop on a thread of its own, for callers that are not async."""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from rlm_wasm.errors import RuntimeClosed, UsageError
from rlm_wasm.host.affinity import Affinity, require_no_loop
from rlm_wasm.system.loop_calls import caller_of_this_loop

_T = TypeVar("_T")
_P = ParamSpec("_P")

# What is open, for the interpreter's exit. Weak: what nobody holds any more is closed when it is collected.
_OPEN: Final[weakref.WeakSet[BackgroundLoop]] = weakref.WeakSet()


class BackgroundLoop:
    """Runs what is async for threads that wait. `what` is what was opened there, in the words of an error.

    `instead` says what to do on a thread where an event loop runs, which every call refuses: it would stand
    still meanwhile. None: it may, and its caller says so.

    What is still open when the interpreter exits is closed then, with a ResourceWarning: later its thread
    stands still, and who closed it would wait for ever.

    Any thread may call, several at once too; each waits for its own call only. `wait` is for callers that are
    async.
    """

    def __init__(self, what: str, *, instead: str | None) -> None:
        self._what: Final = what
        self._instead: Final = instead
        self._portal: BlockingPortal | None = None
        self._home: Affinity | None = None
        self._stack = ExitStack()

    def open(self, opened: AbstractAsyncContextManager[Any]) -> None:
        """Start the loop and enter what is to be there. Raises what that raises, and UsageError as `call`."""
        self._check_thread()
        if self._portal is not None:
            raise UsageError(f"{self._what} is open already")
        with ExitStack() as stack:
            stack.callback(self._forget)
            self._portal = portal = _start(stack)
            self._home = home = portal.call(Affinity)
            # One task enters and leaves it, as its task groups demand.
            stack.enter_context(portal.wrap_async_context_manager(opened))
            self._stack = stack.pop_all()
            _OPEN.add(self)
            weakref.finalize(self, _abandon, portal, home).atexit = False

    def close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave what was entered and end the loop. In the child of a fork there is nothing to leave."""
        if self.inherited:
            return False
        return bool(self._stack.__exit__(kind, error, trace))

    def close_at_exit(self) -> None:
        """Close it for who did not."""
        if not self.is_open:
            return
        warning = ResourceWarning(f"{self._what} was not closed")
        try:
            warnings.warn(warning, stacklevel=1, source=self)
        finally:
            self.close(ResourceWarning, warning, None)  # as after an error: nobody waits for a call any more

    @property
    def is_open(self) -> bool:
        """Whether something is there to be called or closed, of this process."""
        return self._portal is not None and not self.inherited

    @property
    def inherited(self) -> bool:
        """Whether it was opened in the process that this one was forked from: nothing of it is here."""
        return self._home is not None and self._home.inherited

    @property
    def _is_here(self) -> bool:
        return self._home is not None and self._home.is_here

    def _forget(self) -> None:
        self._portal = self._home = None
        _OPEN.discard(self)

    def call(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call an async function there, and wait for what it returns or raises.

        What interrupts the wait, as Ctrl-C does, cancels the call and waits until it has ended.

        Raises:
            UsageError: nothing is open, or this is a fork of the process where it was opened, or an event
                loop runs on this thread.
            RuntimeClosed: it was closed meanwhile.
        """
        portal = self._opened()
        ended = threading.Event()

        async def run() -> _T | _Exit:
            try:
                return await function(*args, **kwargs)
            except (KeyboardInterrupt, SystemExit) as error:
                return _Exit(error)
            finally:
                ended.set()

        try:
            future = portal.start_task_soon(run)
        except RuntimeError:  # another thread closes it
            raise self._not_open() from None
        try:
            return _unwrapped(future.result())
        except CancelledError:
            if not future.cancelled():  # it is the function's own
                raise
            raise RuntimeClosed(f"{self._what} was closed before the call had ended") from None
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait()
            raise

    async def wait(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do what `call` does, for a caller on any event loop, which goes on meanwhile.

        Cancelled, it cancels the call and waits until that has ended. Raises what `call` raises.
        """
        portal = self._opened(waits=False)
        if self._is_here:
            return await function(*args, **kwargs)
        soon, came, ended = caller_of_this_loop(), anyio.Event(), anyio.Event()

        def tell(event: anyio.Event) -> None:
            with suppress(RuntimeError):  # the caller's loop is over, and with it who waited
                soon(event.set)

        async def run() -> _T | _Exit:
            try:
                return await function(*args, **kwargs)
            except (KeyboardInterrupt, SystemExit) as error:
                return _Exit(error)
            finally:
                tell(ended)

        try:
            future = portal.start_task_soon(run)
        except RuntimeError:  # another thread closes it
            raise self._not_open() from None
        future.add_done_callback(lambda _: tell(came))
        try:
            await came.wait()
        except BaseException:
            if not future.done():
                future.cancel()
                with anyio.CancelScope(shield=True):
                    await ended.wait()
            raise
        if future.cancelled():
            raise RuntimeClosed(f"{self._what} was closed before the call had ended")
        return _unwrapped(future.result())

    def do(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function there that returns at once. Raises what it raises, and UsageError as `call`."""
        portal = self._opened()
        return _unwrapped(portal.start_task_soon(_call, lambda: function(*args, **kwargs)).result())

    def _check_thread(self) -> None:
        if self._instead is not None:
            require_no_loop(self._what, self._instead)
        elif self._is_here:
            raise UsageError(
                f"{self._what} was called from its own event loop, which would wait for itself",
                hint="let a function that is not async call it: that has a thread of its own",
            )

    def _not_open(self) -> UsageError:
        return UsageError(f"{self._what} is not open", hint="use it in a `with` statement")

    def _opened(self, *, waits: bool = True) -> BlockingPortal:
        if waits:
            self._check_thread()
        portal = self._portal
        if portal is None:
            raise self._not_open()
        if self.inherited:
            raise UsageError(
                f"{self._what} belongs to the process that this one was forked from",
                hint="open one of its own in each process",
            )
        return portal


def _start(stack: ExitStack) -> BlockingPortal:
    """Start a loop on a thread that `stack` ends.

    Not by anyio's `start_blocking_portal`: that is a generator, which at its own end waits for a thread that
    is not there in the child of a fork, and stands still at the interpreter's exit.
    """
    started: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    def run() -> None:
        try:
            Context().run(anyio.run, serve)  # whatever Python hands on to a thread
        except BaseException as error:  # noqa: BLE001 - for the thread that waits for the loop
            if not started.done():
                started.set_exception(error)

    thread = threading.Thread(target=run, name="rlm-wasm sync()", daemon=True)
    thread.start()
    stack.callback(thread.join)
    portal = started.result()

    def stop(kind: type[BaseException] | None, *_: object) -> None:
        with suppress(RuntimeError):  # it has stopped, whatever stopped it
            portal.call(portal.stop, kind is not None)  # after an error what remains is cancelled

    stack.push(stop)
    return portal


def _abandon(portal: BlockingPortal, home: Affinity) -> None:
    """Stop the loop of something that nobody holds any more, without a wait: a collector called this."""
    if not home.inherited:
        with suppress(RuntimeError):
            portal.start_task_soon(portal.stop, True)


@dataclass(frozen=True, slots=True)
class _Exit:
    """What a callback raised that ends a program: for the thread that waits; it would end the loop."""

    error: BaseException


async def _call(function: Callable[[], _T]) -> _T | _Exit:
    try:
        return function()
    except (KeyboardInterrupt, SystemExit) as error:
        return _Exit(error)


def _unwrapped(returned: _T | _Exit) -> _T:
    if isinstance(returned, _Exit):
        raise returned.error
    return returned


@atexit.register
def _close_what_is_open() -> None:
    with ExitStack() as stack:  # each, whatever another one raises
        for loop in list(_OPEN):
            stack.callback(loop.close_at_exit)
