"""A thread for one call, of the machine's and of nobody else's.

The threads that anyio gives are so many for the whole program. The application may have them all in use, and
each may wait for a session of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from rlm_wasm.system.os_errors import is_shortage, wrap_os_error

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


async def in_thread(
    call: Callable[[*_Arguments], _T], *arguments: *_Arguments, abandon_on_cancel: bool = False
) -> _T:
    """Return what a call returns that would keep the event loop for too long.

    Raises:
        HostExhausted: the kernel gives this process no thread.
    """
    try:
        return await anyio.to_thread.run_sync(
            call, *arguments, abandon_on_cancel=abandon_on_cancel, limiter=anyio.CapacityLimiter(1)
        )
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        failure = wrap_os_error(error, "no thread can be started", ours=True)
    raise failure
