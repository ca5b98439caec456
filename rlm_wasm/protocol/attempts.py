"""The attempts of a worker that is made for an examination: each one's name, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.protocol.process_limits import ProcessLimits

ATTEMPTS: Final = (
    "open",
    "connect",
    "exec",
    "fork",
    "ptrace",
    "signal",
    "mmap exec",
    "write and run",
    "mount",
    "io_uring",
)
ATTEMPT_SECONDS_MAX: Final = 10.0
# Room for the zygote's own limits to be set; such a worker runs no session.
ATTEMPT_LIMITS: Final = ProcessLimits(
    sessions_max=1,
    memory_bytes_max=128 << 20,
    image_bytes_max=128 << 20,
    held_bytes_max=0,
    files_max=0,
    cpu_seconds_max=10,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing tried: `outcome` is an error's name, a signal's, or "worked"."""

    name: str
    outcome: str

    @property
    def refused(self) -> bool:
        """Whether the worker got nothing."""
        return self.outcome in ("EACCES", "EPERM", "SIGSYS")
