"""A worker of a user who may have no further process: it cannot be forked."""

from __future__ import annotations

import resource

from tests.support.worker_entry import serve

__all__ = ["serve", "warm"]


def warm() -> None:
    """Use up what the user may have."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
