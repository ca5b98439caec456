"""Resource limits of a worker: what the kernel refuses even to code that makes its own system calls.

RLIMIT_AS is a poor cap on memory: each session reserves 4 GiB of address space and touches a few of
it. RLIMIT_DATA counts private writable pages, and a reservation is not writable until a guest grows
into it, so it stops growth beyond what the sessions may have. It is no wall against a hostile process:
the kernel passes over it for `mprotect` once the address space is used up, and does not count files,
of which it can make none (`host/lent_files.py`). What bounds such a process is RLIMIT_AS, a few GiB a
session, and before that its host, which watches how much it holds, and the kernel, which ends workers first
when memory runs out.
"""

from __future__ import annotations

import resource
from typing import Final

from rlm_wasm.protocol.process_limits import ProcessLimits

# Address space of one session: 4 GiB and 32 MiB of guard.
_RESERVED_BYTES: Final = (4 << 30) + (32 << 20)
# A fiber's stack (17 MiB), a cell's streams and frames, page-rounding.
_SESSION_DATA_BYTES: Final = 64 << 20
# Python's own heap beyond what the zygote had.
_PROCESS_DATA_BYTES: Final = 128 << 20
# Descriptors of a worker besides those of snapshots: 0 to 5, and a few while an image is made.
_FILES: Final = 16


def table(limits: ProcessLimits, *, data_bytes: int, address_bytes: int) -> dict[int, int]:
    """Return the hard limit for each resource of a process that uses so much already."""
    data = (
        data_bytes
        + _PROCESS_DATA_BYTES
        + limits.held_bytes_max
        + limits.sessions_max * (limits.memory_bytes_max + _SESSION_DATA_BYTES)
    )
    return {
        resource.RLIMIT_DATA: data,
        # One more: a session that goes back has two memories for a moment.
        resource.RLIMIT_AS: address_bytes + data + (limits.sessions_max + 1) * _RESERVED_BYTES,
        # At the end of its life the kernel kills it, whatever it is busy with.
        resource.RLIMIT_CPU: limits.cpu_seconds_max,
        # The image of a crash holds what guests held.
        resource.RLIMIT_CORE: 0,
        # Memory files obey it too.
        resource.RLIMIT_FSIZE: limits.image_bytes_max,
        resource.RLIMIT_NOFILE: _FILES + limits.files_max,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        # A handful of frames of C below the fibers, which have stacks of their own.
        resource.RLIMIT_STACK: 8 << 20,
    }


def apply(limits: ProcessLimits, *, data_bytes: int, address_bytes: int) -> str:
    """Set every limit, soft and hard alike.

    Raises:
        OSError or ValueError: a limit could not be set; a lower one that stands already is kept.
    """
    for number, wanted in table(limits, data_bytes=data_bytes, address_bytes=address_bytes).items():
        _, hard = resource.getrlimit(number)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (value, value))
    return f"data {limits.sessions_max} x {limits.memory_bytes_max >> 20} MiB, cpu {limits.cpu_seconds_max} s"
