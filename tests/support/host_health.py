"""Whether the host is as it was: no descriptor, memory, fiber or image mapping left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from dataclasses import dataclass

from rlm_wasm.protocol.native_form import WASM_STACK_BYTES
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm.engine import HOST_STACK_BYTES
from rlm_wasm.vm.fiber_unsafe import GUARD_BYTES

# Arenas of the allocators come and go by themselves; a leak of ours repeats and passes this soon.
MAPS_SLACK = 16
_LIBRARY = re.compile(r"\.so[.\d]*( \(deleted\))?$")


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
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists the folder
            fds.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    with open("/proc/self/maps") as file:
        maps = file.read().splitlines()
    sizes = [_size(line) for line in maps]
    return Health(
        fds=frozenset(fds),
        memories=linear_unsafe.live_count(),
        fiber_stacks=sum(
            # Its own guard lies below each: a heap of the same size is none, also above what another has
            # reserved.
            (guard, size) == (GUARD_BYTES, WASM_STACK_BYTES + HOST_STACK_BYTES) and " ---p " in below
            for guard, size, below in zip(sizes, sizes[1:], maps, strict=False)
        ),
        image_maps=sum("memfd:rlm-" in line for line in maps),
        # A library is loaded once, by whoever uses it first.
        maps=sum(not _LIBRARY.search(line) for line in maps),
    )


def _size(line: str) -> int:
    start, _, end = line.partition(" ")[0].partition("-")
    return int(end, 16) - int(start, 16)


def assert_same(before: Health, after: Health) -> None:
    """Nothing may be left that was not there; what waits for the garbage collector is not left yet."""
    if not _nothing_new(before, after):
        gc.collect()
        after = health()
    assert _nothing_new(before, after), (after.fds - before.fds, before, after)


def _nothing_new(before: Health, after: Health) -> bool:
    # Less is fine: garbage of an earlier test may have gone meanwhile.
    counted = ("memories", "fiber_stacks", "image_maps")
    return (
        after.fds <= before.fds
        and all(getattr(after, name) <= getattr(before, name) for name in counted)
        and after.maps <= before.maps + MAPS_SLACK
    )
