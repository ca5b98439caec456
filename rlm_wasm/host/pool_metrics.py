"""The figures of a pool: what it has, and what became of its workers.

Counters only grow, also when the pool is closed; the others are what there is at the moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Why a session was refused: which limit of [workers] was reached, or what the tenant may have of it, or that
# the pool is being closed.
Refusal = Literal[
    "workers",
    "zygotes",
    "sessions",
    "memory",
    "pressure",
    "closing",
    "tenant_sessions",
    "tenant_workers",
    "tenant_memory",
]


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """A pool of worker processes at one moment.

    `workers` are those that serve or are being made, `sessions` the open ones, `zygotes` the processes
    that workers are forked from, `memory_bytes` what the workers held when they were last measured.
    `pressure_permille` is for how much of ten seconds some task of this machine waited for memory.

    The counters: `workers_started` were forked; `workers_lost` died, hung, broke the protocol or held too
    much memory, and took `sessions_lost` along; `zygotes_started` more than `zygotes` are zygotes that
    were lost or retired. `cpu_ns` is the CPU time, of user and kernel, that the workers used since
    they were forked, whatever for. It is measured once a second and before a worker is ended, so what one
    that died by itself used after its last measurement is not in it; neither is what zygotes used.
    `refusals` says for each reason how many sessions were refused.

    `lockdown` is the word of what stands around the workers: of the zygotes that are there, the one with the
    fewest layers; empty while there is none. It is `lockdown.Grade`'s.
    """

    workers: int
    sessions: int
    zygotes: int
    memory_bytes: int
    pressure_permille: int
    workers_started: int
    workers_lost: int
    sessions_lost: int
    zygotes_started: int
    cpu_ns: int
    refusals: Mapping[Refusal, int]
    lockdown: str = ""


@dataclass(slots=True)
class PoolCounters:
    """The counters of a pool, as it keeps them. One thread writes; any may read."""

    workers_started: int = 0
    workers_lost: int = 0
    sessions_lost: int = 0
    zygotes_started: int = 0
    cpu_ns: int = 0

    def worker_started(self) -> None:
        """Count a worker that was forked."""
        self.workers_started += 1

    def zygote_started(self) -> None:
        """Count a zygote."""
        self.zygotes_started += 1

    def worker_lost(self, sessions: int) -> None:
        """Count a worker that ended before its sessions did."""
        self.workers_lost += 1
        self.sessions_lost += sessions
