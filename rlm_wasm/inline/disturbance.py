"""A check for what of an application's could raise in a guest's call to the host, on its own thread.

Such a call runs inside wasmtime, through which nothing may unwind: the process would have to end. So an event
loop runs guests by itself only where nothing is known that could: no handler of a signal that may raise, no
trace function, room for our frames, and the signals with which a trap begins.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
import sys
import threading
from typing import Any, Final

from rlm_wasm.vm import traps

# Far more than are ever between an event loop's callback and what a guest's call does.
_FRAMES: Final = 200
_SIGNALS: Final = tuple(sorted(int(number) for number in signal.valid_signals()))
_NONE: Final = frozenset({int(signal.SIG_DFL), int(signal.SIG_IGN), None})
# Event loops' own handlers, which note the signal; trio's for SIGINT does not raise in a callback.
_NOTING: Final = frozenset({"asyncio.unix_events", "uvloop.loop", "trio._signals", "trio._core._ki"})


class Disturbance:
    """Says whether a guest may run on the thread this was made on, which is an event loop's."""

    __slots__ = ("_main", "_recursion_limit", "_roomy")

    def __init__(self) -> None:
        # Handlers of signals run on the main thread only.
        self._main: Final = threading.current_thread() is threading.main_thread()
        self._recursion_limit = self._roomy = 0

    def possible(self) -> bool:
        """Whether something is known that could disturb a guest's call here and now."""
        if self._recursion_limit != (limit := sys.getrecursionlimit()):
            self._recursion_limit, self._roomy = limit, limit - _depth() > _FRAMES
        if not self._roomy or sys.gettrace() is not None or sys.getprofile() is not None or traps.blocked():
            return True
        return self._main and _a_handler_may_raise()


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        depth += 1
    return depth


def _a_handler_may_raise() -> bool:
    try:
        # Not `signal.getsignal`, which looks for an enum's member first, fifty times as long.
        handlers = set(map(_signal.getsignal, _SIGNALS))
    except TypeError:  # one that cannot be in a set
        return True
    return any(_may_raise(handler) for handler in handlers - _NONE)


def _may_raise(handler: Any) -> bool:
    # That of asyncio's runner, which anyio uses too, raises when another one comes after the first. A runner
    # keeps count of them.
    runner = getattr(getattr(handler, "func", None), "__self__", None)
    if (count := getattr(runner, "_interrupt_count", None)) is not None:
        return bool(count)
    return getattr(handler, "__module__", None) not in _NOTING
