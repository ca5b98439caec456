"""The page profile: which pages of the base image a first cell touches, learned by running one.

So that they can be made ready in other instances ahead of need (`stock.py`).
"""

from __future__ import annotations

from os import urandom
from typing import Final

from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits, nothing_but
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.dirty_pages_unsafe import present_ranges, way_in_use, written_ranges
from rlm_wasm.vm.instance import FirstTouched, Instance, Program
from rlm_wasm.vm.session import Session, drive

# What the first cell of most sessions does: bind, print, show.
_REHEARSAL: Final = "x = 1\nprint(x + 1)\nx"
_REHEARSAL_GROWTH_BYTES: Final = 16 << 20
_CELL: Final = nothing_but(
    CellLimits,
    fuel_max=2_000_000_000,
    wall_ms_max=10_000,
    stdout_bytes_max=4_096,
    stderr_bytes_max=4_096,
    result_bytes_max=4_096,
    source_bytes_max=4_096,
)
_BOUNDARY: Final = nothing_but(BoundaryLimits)


def profile_pages(program: Program, facts: GuestFacts) -> FirstTouched:
    """Run a first cell in a session of its own, which ends with it, and return what it touched.

    Learned once for a program. A process that will not be able to ask the kernel asks before; where the
    kernel does not say, nothing counts as touched.
    """
    if program.first_touched is None:
        program.first_touched = _profile_pages(program, facts)
    return program.first_touched


def _profile_pages(program: Program, facts: GuestFacts) -> FirstTouched:
    limits = nothing_but(
        SessionLimits,
        memory_bytes_max=program.image.size + _REHEARSAL_GROWTH_BYTES,
        files_max=1,
        clock="virtual",
        entropy="fresh",
    )
    instance = Instance(program, memory_bytes_max=limits.memory_bytes_max)
    session = Session(program, facts, limits, _BOUNDARY, urandom, prepared=instance)
    try:
        end = drive(session.run(Cell(_REHEARSAL, _CELL, report_variables=True)))
        if end.fault is not None or way_in_use() == "everything":
            return FirstTouched()
        base, size = instance.memory.base, program.image.size
        return FirstTouched(tuple(present_ranges(base, size)), tuple(written_ranges(base, size)))
    except OSError:
        return FirstTouched()
    finally:
        session.close()
