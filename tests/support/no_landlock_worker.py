"""The worker for tests on a kernel without Landlock."""

from __future__ import annotations

import errno

from rlm_wasm.jail.lockdown import landlock
from tests.support.worker_entry import serve, warm

__all__ = ["serve", "warm"]


def _none() -> int:
    raise OSError(errno.EOPNOTSUPP, "Landlock is turned off")


landlock.abi = _none
