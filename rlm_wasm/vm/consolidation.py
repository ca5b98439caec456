"""The decision which written pages are moved into a memory file: pure.

A page that was moved counts as unwritten again. So keeping a session's state costs what was written since it
was kept last, however much was written before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from rlm_wasm.vm.dirty_pages_unsafe import Range
from rlm_wasm.vm.linear_unsafe import Overlay

# Less than this is copied each time: moving pages costs a fault for each that is used again.
CONSOLIDATED_FROM_BYTES: Final = 8 << 20
# Each stretch is a mapping of its own, of which the kernel has some ten thousand for a process.
STRETCHES_MAX: Final = 128
_STRETCH_BYTES_MIN: Final = 256 << 10
_GAP_BYTES_MIN: Final = 16 << 10
# Each file is a descriptor.
FILES_MAX: Final = 4


def stretches_to_move(written: Sequence[Range], *, everything: bool = False) -> list[Range]:
    """Return the stretches to move, in order; none if too little was written.

    What lies between two of them may be moved, too, and what stays is at most `CONSOLIDATED_FROM_BYTES`.
    """
    stays_max = 0 if everything else CONSOLIDATED_FROM_BYTES
    if total(written) <= stays_max:
        return []
    gap = _GAP_BYTES_MIN
    while True:
        stretches = _joined(written, gap)
        moved = [s for s in stretches if everything or s[1] >= _STRETCH_BYTES_MIN]
        if len(moved) <= STRETCHES_MAX and total(stretches) - total(moved) <= stays_max:
            return moved
        gap *= 4


def laid_over(below: Iterable[Overlay], new: Overlay) -> tuple[Overlay, ...]:
    """Return what is mapped once `new` lies over `below`, without overlaps."""
    seen: list[Overlay] = []
    for old in below:
        if old.end <= new.offset or old.offset >= new.end:
            seen.append(old)
            continue
        if old.offset < new.offset:
            seen.append(replace(old, length=new.offset - old.offset))
        if old.end > new.end:
            seen.append(replace(old, offset=new.end, length=old.end - new.end))
    if seen and (seen[-1].fd, seen[-1].base) == (new.fd, new.base) and seen[-1].end == new.offset:
        new = replace(new, offset=seen[-1].offset, length=seen.pop().length + new.length)
    return (*seen, new)


def is_scattered(overlays: Sequence[Overlay], file_bytes: int) -> bool:
    """Whether all of it is better written anew: too many pieces, or files that hold mostly what is hidden."""
    live = sum(overlay.length for overlay in overlays)
    files = len({(overlay.fd, overlay.base) for overlay in overlays})
    return (
        files >= FILES_MAX
        or len(overlays) > 2 * STRETCHES_MAX
        or file_bytes > 2 * live + CONSOLIDATED_FROM_BYTES
    )


def total(ranges: Iterable[Range]) -> int:
    """Return the bytes in all of them."""
    return sum(length for _, length in ranges)


def united(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return what lies in either, in order and without overlaps."""
    return _joined(sorted((*one, *other)), 0)


def _joined(ranges: Iterable[Range], gap: int) -> list[Range]:
    joined: list[Range] = []
    for offset, length in ranges:
        if joined and offset <= sum(joined[-1]) + gap:
            start = joined[-1][0]
            joined[-1] = (start, max(sum(joined[-1]), offset + length) - start)
        else:
            joined.append((offset, length))
    return joined
