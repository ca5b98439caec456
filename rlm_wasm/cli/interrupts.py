"""Ctrl-C, the same for every command that runs a guest: once to end well, twice to stop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

_T = TypeVar("_T")


async def interruptible(body: Callable[[], Awaitable[_T]], end: Callable[[], object]) -> _T:
    """Return what `body` returns; call `end` at the first SIGINT or SIGTERM.

    A second signal is Python's own again. An exception of `body` comes out as it is.
    """
    result: _T
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, end)
        try:
            result = await body()
        except Exception as error:  # noqa: BLE001 - raised again below, without the task group's wrapping
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _watch(end: Callable[[], object]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            end()
            break
