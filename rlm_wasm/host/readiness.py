"""Waits for a process: for its first word while it does something for it, for its end once it is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import Final

import anyio

from rlm_wasm.host.liveness import hangs
from rlm_wasm.host.process_handle import ProcessHandle

_LOOK_SECONDS: Final = 0.05


async def told_in_time(
    told: anyio.Event,
    cpu_ms: Callable[[], int | None],
    catch_up: Callable[[], Awaitable[object]],
    *,
    hang_ms_max: int,
) -> bool:
    """Wait for `told`; return False once the process that should tell hangs, by the measure of all workers.

    `cpu_ms()` is the CPU time it has used so far. `catch_up()` reads what it has said: our own loop may
    have been late.
    """
    began_ns, began_ms = monotonic_ns(), cpu_ms()
    while not told.is_set():
        with anyio.move_on_after(hang_ms_max / 1000):
            await told.wait()
        await catch_up()
        used = cpu_ms()
        if used is not None and began_ms is not None:
            used -= began_ms
        if not told.is_set() and hangs(monotonic_ns() - began_ns, used, hang_ms_max):
            return False
    return True


async def ended_in_time(child: ProcessHandle, seconds_max: float) -> bool:
    """Wait until a process that was killed is no more, then close it; return whether that is so."""
    with anyio.move_on_after(seconds_max, shield=True):
        while not child.ended():
            try:
                await anyio.wait_readable(child.pidfd)
            except OSError:  # the loop cannot watch one more descriptor
                await anyio.sleep(_LOOK_SECONDS)
    ended = child.ended()
    with contextlib.suppress(OSError):
        child.close()
    return ended
