"""A thread that sees when nothing happens any more, says where every task stands, and ends the process.

A task that waits in a shielded scope is reached by no timeout and no Ctrl-C, so nothing on the event loop
can tell of it.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CoroutineType
from typing import Any, Final

_LOOK_SECONDS: Final = 1.0
EXIT_STATUS: Final = 3


@contextmanager
def watched(about: str, progress: Callable[[], object], *, looks_max: int) -> Iterator[None]:
    """End the process if `progress()` is the same at so many looks in a row, one a second.

    Looks are counted and no time: while somebody has stopped this process, there are none.
    """
    over = threading.Event()

    def watch() -> None:
        last, same = progress(), 0
        while not over.wait(_LOOK_SECONDS):
            now = progress()
            last, same = now, same + 1 if now == last else 0
            if same >= looks_max:
                print(f"stands still: {about}\n{standing()}", flush=True)
                faulthandler.dump_traceback(all_threads=True)
                sys.stdout.flush()
                os._exit(EXIT_STATUS)

    thread = threading.Thread(target=watch, daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def standing() -> str:
    """Return where each coroutine that nobody awaits has come to, outermost call first."""
    suspended = [
        each for each in gc.get_objects() if isinstance(each, CoroutineType) and each.cr_frame is not None
    ]
    awaited = {id(each.cr_await) for each in suspended}
    return "\n\n".join("\n".join(_calls(each)) for each in suspended if id(each) not in awaited)


def _calls(coroutine: Any) -> Iterator[str]:
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        code = frame.f_code
        yield f"  {code.co_filename}:{frame.f_lineno} {code.co_qualname}"
        coroutine = coroutine.cr_await
