"""Ctrl-C before a command has anything to clean up: one line and status 130."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_STATUS: Final = 130


def catch() -> None:
    """Let Ctrl-C end the process at once, unless somebody wants it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def ready() -> None:
    """Let Ctrl-C be a KeyboardInterrupt again: from here on there may be something to clean up.

    Called by each command once it has imported what it needs. In the middle of an import, Python would
    show a traceback, or lose the interrupt in a callback.
    """
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(_STATUS)
