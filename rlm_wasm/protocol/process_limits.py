"""The resource limits of one worker process, as its host tells the zygote that forks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What one worker process may use. Each number is the pool's, from the policy.

    `image_bytes_max` bounds one memory file: an image laid out for forks. `held_bytes_max` is what
    snapshots of all its sessions may hold.
    """

    sessions_max: int
    memory_bytes_max: int
    image_bytes_max: int
    held_bytes_max: int
    files_max: int
    cpu_seconds_max: int
