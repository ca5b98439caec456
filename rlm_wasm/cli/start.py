"""The command's entry point: before anything is imported, Ctrl-C is already one line and status 130."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

_STATUS: Final = 130


def entry(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it ignored
        signal.signal(signal.SIGINT, _stop)
    from rlm_wasm.cli.main import entry as run

    run(arguments)


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
