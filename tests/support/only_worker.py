"""Workers of a user who may have two processes: the zygote, and one worker."""

from __future__ import annotations

import resource

from rlm_wasm.jail import worker_entry as serving
from rlm_wasm.jail.worker_entry import serve

__all__ = ["serve", "warm"]


def warm() -> None:
    """Do what every zygote does, and leave room for one worker."""
    serving.warm()
    resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
