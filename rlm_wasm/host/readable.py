"""A callback for each time a descriptor can be read, on asyncio or trio."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
from anyio.lowlevel import current_token


async def while_readable(fd: int, call: Callable[[], None]) -> NoReturn:
    """Call `call()` on the event loop whenever `fd` can be read, until cancelled. Raises what it raises.

    Where the loop takes a callback for a descriptor, as asyncio's does, no task sleeps and wakes for each
    call: for a frame of a worker that was a third of what the host spent to take it.
    """
    native: Any = current_token().native_token
    if not hasattr(native, "add_reader"):
        while True:
            await anyio.wait_readable(fd)
            call()
    failed = native.create_future()
    # Where the other end is gone and left something unread, libuv says so once and watches no more, whatever
    # there still is to be read. Asyncio's own loops say it at each look.
    gone = None if isinstance(native, asyncio.BaseEventLoop) else select.poll()
    if gone is not None:
        gone.register(fd, 0)

    def called() -> None:
        if failed.done():
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised by the task, as where it calls by itself
            failed.set_exception(error)
        if gone is not None and gone.poll(0):
            native.call_soon(called)

    native.add_reader(fd, called)
    try:
        await failed
    finally:
        native.remove_reader(fd)
    raise AssertionError("unreachable")  # the future never holds a result
