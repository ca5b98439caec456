"""Forks of this process: none in the midst of a guest's turn, and no child that reaches back.

Only the thread that forks goes on in the child. What another one held or was in the midst of, wasmtime's
own locks included, stays so there for ever. So a fork first waits, with a bound, for every lock that is
named here. Where that is not enough, guests cannot run in the child, and whoever tries is told why.
What belongs to the parent (its threads, sockets and processes) is disowned in the child.

A fork that does not come from Python runs none of this. Starting another program does not need it.
"""

from __future__ import annotations

import os
import threading
import weakref
from time import monotonic
from typing import Final, Protocol

from rlm_wasm.errors import UsageError

# A turn of a guest takes milliseconds, loading one some hundred.
HOLD_SECONDS_MAX: Final = 5.0


class Inherited(Protocol):
    """Something that the child of a fork gets a copy of, and must not use."""

    def disown(self) -> None:
        """Give up what is the parent's and refuse to be used. Called in the child; raises nothing."""


# Whoever holds one of these may run a guest. They change only under the door.
_batons: Final[set[threading.Lock]] = set()
_door: Final = threading.Lock()
# Of whole modules. One that is named later may be held while an earlier one is wanted.
_locks: Final[list[threading.Lock]] = []
# What the thread that forks has got, and whether that is all of them.
_held: Final[list[threading.Lock]] = []
_whole = True
_inherited: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()
_lineage = 0
_torn = False


def module_lock() -> threading.Lock:
    """Return a new lock that is free in the child of a fork."""
    lock = threading.Lock()
    _locks.append(lock)
    return lock


def add_baton(baton: threading.Lock) -> None:
    """Have forks wait for a lock that is held while a guest runs."""
    with _door:
        _batons.add(baton)


def drop_baton(baton: threading.Lock) -> None:
    """No guest runs under it any more."""
    with _door:
        _batons.discard(baton)


def disown_in_child(held: Inherited) -> None:
    """Have `held` disowned in the child of a fork, for as long as it lives."""
    _inherited.add(held)


def lineage() -> int:
    """How many forks this process is away from the first one: another number is another process."""
    return _lineage


def require_whole() -> None:
    """Check that this process was not forked while another thread ran a guest.

    Raises:
        UsageError: it was, and whatever that thread held is held for ever.
    """
    if _torn:
        raise UsageError(
            "this process was forked from one whose thread ran a guest for longer than "
            f"{HOLD_SECONDS_MAX:.0f} s, so no guest can run in it",
            hint="fork before the first session, or start processes with `spawn`",
        )


def _before() -> None:
    global _whole
    until = monotonic() + HOLD_SECONDS_MAX
    _whole = _hold(_door, until) and all(_hold(lock, until) for lock in (*_batons, *reversed(_locks)))


def _hold(lock: threading.Lock, until: float) -> bool:
    if not lock.acquire(timeout=max(0.0, until - monotonic())):
        return False
    _held.append(lock)
    return True


def _in_parent() -> None:
    while _held:
        _held.pop().release()


def _in_child() -> None:
    global _lineage, _torn
    _lineage += 1
    _torn = _torn or not _whole
    _held.clear()
    _batons.clear()
    for lock in (_door, *_locks):
        if lock.locked():  # by us, or by a thread that is not here
            lock.release()
    for held in list(_inherited):
        held.disown()
    _inherited.clear()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
