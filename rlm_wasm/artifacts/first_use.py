"""Work that is done once for a machine, at a first use, and whoever shows that it goes on.

It takes seconds. A library says nothing meanwhile; a command line sets a watcher before it loads a guest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Told in a few words what is done; the work is done within.
Watcher = Callable[[str], AbstractContextManager[object]]


def _nobody(what: str) -> AbstractContextManager[object]:
    return nullcontext()


_watcher: Watcher = _nobody


def watch(watcher: Watcher) -> None:
    """Have `watcher` told of such work from now on."""
    global _watcher
    _watcher = watcher


def once(what: str) -> AbstractContextManager[object]:
    """Do within what is done once; `what` says it to a person."""
    return _watcher(what)
