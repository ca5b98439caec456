"""Whether the host is as it was: no descriptor, memory, fiber or image mapping left behind."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

from rlm_wasm.sandbox import linear_unsafe
from rlm_wasm.sandbox.engine import HOST_STACK_BYTES, WASM_STACK_BYTES

# Arenas of the allocators come and go by themselves; a leak of ours repeats and passes this soon.
MAPS_SLACK = 16


@dataclass(frozen=True)
class Health:
    """What the kernel says about this process."""

    fds: frozenset[str]
    memories: int
    fiber_stacks: int
    image_maps: int
    maps: int


def health() -> Health:
    """Look at the process now."""
    gc.collect()
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the descriptor that lists the folder
    with open("/proc/self/maps") as file:
        maps = file.read().splitlines()
    sizes = [_size(line) for line in maps]
    return Health(
        fds=frozenset(fds),
        memories=linear_unsafe.live_count(),
        fiber_stacks=sum(size == WASM_STACK_BYTES + HOST_STACK_BYTES for size in sizes),
        image_maps=sum("memfd:rlm-" in line for line in maps),
        maps=len(maps),
    )


def _size(line: str) -> int:
    start, _, end = line.partition(" ")[0].partition("-")
    return int(end, 16) - int(start, 16)


def assert_same(before: Health, after: Health) -> None:
    """Compare two looks."""
    assert after.fds == before.fds, after.fds ^ before.fds
    assert after.memories == before.memories
    assert after.fiber_stacks == before.fiber_stacks
    assert after.image_maps == before.image_maps
    assert after.maps <= before.maps + MAPS_SLACK
