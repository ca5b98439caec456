"""Calls onto an event loop from any thread, and a thread for a call that nobody can end."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from rlm_wasm.errors import HostExhausted

# What calls a function soon on an event loop. Raises RuntimeError: the loop is over.
CallSoon = Callable[[Callable[[], object]], object]
# How the variable is called that says which kind of event loop a task runs on.
_LIBRARY: Final = "current_async_library_cvar"


def caller_of_this_loop() -> CallSoon:
    """Return what calls functions on the event loop that runs here; any thread may use it."""
    native: Any = anyio.lowlevel.current_token().native_token
    # asyncio's name for it, and trio's.
    found: CallSoon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return found


async def in_thread_of_its_own(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    ended: Callable[[], None],
    what: str = "tool",
) -> object:
    """Return what a call comes to, which may take for ever: cancelled, this lets go of it at once.

    The thread goes on then, keeps no program from ending, and calls `ended` when the call has come back.
    `what` is called there, for its name and for who is told that there is none.

    Raises:
        HostExhausted: the kernel gives this process no thread; `ended` was called.
        BaseException: what the call raises.
    """
    soon, came = caller_of_this_loop(), anyio.Event()
    box: list[tuple[object, BaseException | None]] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            box.append((context.run(_without_loop, function, args, kwargs), None))
        except BaseException as error:  # noqa: BLE001 - raised by who waits, if anybody does
            box.append((None, error))
        ended()
        with contextlib.suppress(RuntimeError):  # the loop is over, and with it who waited
            soon(came.set)

    try:
        threading.Thread(target=work, name=f"rlm-wasm {what}", daemon=True).start()
    except RuntimeError:
        ended()
        failure = HostExhausted(f"no thread can be started for a {what}")
    else:
        await came.wait()
        value, error = box.pop()
        if error is not None:
            raise error
        return value
    raise failure


def _without_loop(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> object:
    # The context is that of a task; on this thread no loop runs, and the call may start one.
    for variable in contextvars.copy_context():
        if variable.name == _LIBRARY:
            variable.set(None)
    return function(*args, **kwargs)
