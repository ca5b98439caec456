"""The end of the process when a callback of ours fails inside wasmtime.

An exception that leaves a ctypes callback leaves the C return value unset. For the memory
callbacks that value is the base address that compiled code uses without bounds checks, so going on
is an escape. Every callback therefore catches everything itself, and because an exception can
strike before its first line (MemoryError, RecursionError), `sys.unraisablehook` ends the process
as well: ctypes calls it before control returns to wasmtime.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

EXIT_CODE: Final = 70
_R = TypeVar("_R")

_guarded: set[int] = set()
_previous: Callable[[sys.UnraisableHookArgs], Any] | None = None
_forwarding = False


def die(what: str) -> NoReturn:
    """Say `what` on fd 2 and end the process without running anything else."""
    try:
        os.write(2, f"rlm-wasm: fatal: {what}\n".encode("ascii", "replace"))
    finally:
        os._exit(EXIT_CODE)


def guarded(body: Callable[..., _R]) -> Callable[..., _R]:
    """Return `body` as a callback for wasmtime: any exception in it ends the process."""

    def callback(*args: Any) -> _R:
        try:
            return body(*args)
        except BaseException as error:  # noqa: BLE001 - nothing may unwind into wasmtime
            die(f"{type(error).__name__} in the callback {body.__name__}")

    _guarded.add(id(callback))
    _kept.append(callback)
    return callback


_kept: list[object] = []


def install_hook() -> None:
    """Make an unraisable exception of one of our callbacks end the process; others go where they went.

    Called before each poll, because test runners and frameworks replace the hook.
    """
    global _previous
    if sys.unraisablehook is not _hook:
        _previous = sys.unraisablehook
        sys.unraisablehook = _hook


def _is_ours(unraisable: sys.UnraisableHookArgs) -> bool:
    """Whether the exception was raised on entry to one of our callbacks.

    Python 3.11 and 3.12 hand over the callback itself; 3.13 only names it in the message, with its
    address.
    """
    if id(unraisable.object) in _guarded:
        return True
    message = unraisable.err_msg or ""
    return "ctypes callback" in message and any(f"at {number:#x}>" in message for number in _guarded)


def _hook(unraisable: sys.UnraisableHookArgs) -> None:
    global _forwarding
    if _is_ours(unraisable):
        die(f"{unraisable.exc_type.__name__} on entry to a callback")
    # A hook that was put over ours calls us again: forwarded once, not for ever.
    if _previous is not None and not _forwarding:
        _forwarding = True
        try:
            _previous(unraisable)
        finally:
            _forwarding = False
