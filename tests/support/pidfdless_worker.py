"""A worker in a container that gives no pidfd, as the profiles of some do: its zygote cannot hold it."""

from __future__ import annotations

from tests.support.kernel_refusal import refuse
from tests.support.worker_entry import serve

__all__ = ["serve", "warm"]

_PIDFD_OPEN = 434


def warm() -> None:
    """Answer pidfd_open with EPERM from now on."""
    refuse(_PIDFD_OPEN)
