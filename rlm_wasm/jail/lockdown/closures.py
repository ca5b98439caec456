"""Callbacks made with ctypes live in pages that are writable and executable: ours become read-execute.

A process in which a page can be written and run is one write away from running anything. All our
callbacks are made when the modules are imported, so that after this no page needs to change; a
callback made later faults or is killed by the system-call filter, as it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rlm_wasm.jail.lockdown.kernel import syscall

_MPROTECT: Final = 10
_READ_EXECUTE: Final = 5

Page = tuple[int, int]


def writable_code(maps: Iterable[str]) -> Iterator[Page]:
    """Yield (address, length) of every mapping in the lines of a /proc/PID/maps that is both w and x."""
    for line in maps:
        span, permissions = line.split(maxsplit=2)[:2]
        if "w" in permissions and "x" in permissions:
            low, _, high = span.partition("-")
            yield int(low, 16), int(high, 16) - int(low, 16)


def seal(maps_before: Iterable[str]) -> int:
    """Make every writable and executable page read-execute; return how many mappings there were."""
    found = list(writable_code(maps_before))
    for start, length in found:
        syscall(_MPROTECT, start, length, _READ_EXECUTE)
    return len(found)
