"""A worker that ends its zygote before it asks for its parent's death, and waits until it is an orphan."""

from __future__ import annotations

import os
import signal

from rlm_wasm.jail.lockdown import process
from tests.support import worker_entry
from tests.support.worker_entry import serve

__all__ = ["serve", "warm"]

_real = process.die_with_parent
_zygote: list[int] = []


def warm() -> None:
    """Warm up, and note who the zygote is."""
    worker_entry.warm()
    _zygote.append(os.getpid())


def _too_late(parent: int) -> str:
    if os.getpid() not in _zygote:
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            os.sched_yield()
    return _real(parent)


process.die_with_parent = _too_late
