"""The worker for tests on a kernel that has Landlock when it is first asked, and then no more."""

from __future__ import annotations

import errno
import mmap

from rlm_wasm.jail.lockdown import landlock
from tests.support.worker_entry import serve, warm

__all__ = ["serve", "warm"]

_real = landlock.abi
_asked = mmap.mmap(-1, mmap.PAGESIZE)  # shared by all forks


def _once() -> int:
    if _asked[0]:
        raise OSError(errno.EOPNOTSUPP, "Landlock is turned off")
    _asked[0] = 1
    return _real()


landlock.abi = _once
