"""Workers of a user who may have two processes: the zygote, and one worker."""

from __future__ import annotations

import resource

from rlm_wasm.worker import serving
from rlm_wasm.worker.serving import serve

__all__ = ["serve", "warm"]


def warm() -> None:
    """Do what every zygote does, and leave room for one worker."""
    serving.warm()
    resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
