"""Instances made ahead of need, with the pages a first cell touches already there.

Most of the time to a session's first result is the kernel's: a page fault for each page of the image
that the first cell reads or writes. Here they are taken while nobody waits.

No guest code has run in an instance of the stock, and none comes back to it: each is made over the
sealed base image, is given to one session, and ends with that session. Taking a page fault ahead copies
the image's page as it is. So a session from the stock starts from the same bytes as any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from os import urandom
from typing import Final

from rlm_wasm.core.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.image.artifact import GuestFacts
from rlm_wasm.sandbox.dirty_unsafe import PAGE, Range, present_ranges, way_in_use, written_ranges
from rlm_wasm.sandbox.instance import Instance, Program
from rlm_wasm.sandbox.session import Cell, Session, drive

# The most instances one stock holds. Each holds the pages a first cell writes, about half a megabyte.
PREPARED_MAX: Final = 8
# What a step of preparing may touch, so that it takes a fraction of a millisecond.
_READ_PAGES_A_STEP: Final = 512
_WRITTEN_PAGES_A_STEP: Final = 32
# What the first cell of most sessions does: bind, print, show.
_REHEARSAL: Final = "x = 1\nprint(x + 1)\nx"
_REHEARSAL_GROWTH_BYTES: Final = 16 << 20
_CELL: Final = CellLimits(
    fuel_max=2_000_000_000,
    wall_ms_max=10_000,
    stdout_bytes_max=4_096,
    stderr_bytes_max=4_096,
    result_bytes_max=4_096,
    source_bytes_max=4_096,
    requests_max=0,
    sleep_ms_max=0,
)
_BOUNDARY: Final = BoundaryLimits(
    frame_bytes_max=0,
    control_frame_bytes_max=0,
    prompt_bytes_max=0,
    batch_items_max=0,
    nesting_max=0,
    host_wait_ms_max=0,
)


@dataclass(frozen=True, slots=True)
class FirstTouched:
    """The stretches of the base image that a first cell reads, and those it writes."""

    read: tuple[Range, ...] = ()
    written: tuple[Range, ...] = ()

    @property
    def written_bytes(self) -> int:
        """What an instance holds of its own once they are populated."""
        return sum(length for _, length in self.written)


def rehearse(program: Program, facts: GuestFacts) -> FirstTouched:
    """Run a first cell in a session of its own, which ends with it, and return what it touched."""
    limits = SessionLimits(
        memory_bytes_max=program.image.size + _REHEARSAL_GROWTH_BYTES,
        context_bytes_max=0,
        checkpoint_bytes_max=0,
        clock="virtual",
        entropy="fresh",
        seed=0,
    )
    instance = Instance(program, memory_bytes_max=limits.memory_bytes_max)
    session = Session(program, facts, limits, _BOUNDARY, urandom, prepared=instance)
    try:
        end = drive(session.run(Cell(_REHEARSAL, _CELL, report_variables=True)))
        if end.fault is not None or way_in_use() == "everything":
            return FirstTouched()
        base, size = instance.memory.base, program.image.size
        return FirstTouched(tuple(present_ranges(base, size)), tuple(written_ranges(base, size)))
    finally:
        session.close()


class Stock:
    """Up to `size_max` prepared instances of one program. One thread's, like the instances."""

    def __init__(self, program: Program, facts: GuestFacts, *, size_max: int = PREPARED_MAX) -> None:
        self._program: Final = program
        self._facts: Final = facts
        self._size_max: Final = size_max
        self._ready: deque[Instance] = deque()
        self._making: Generator[None, None, None] | None = None
        self._touched: FirstTouched | None = None
        # As many as were asked for so far: a worker that makes one session does not prepare eight.
        self._wanted = 0

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def wants(self) -> bool:
        """Whether `work` has something to do."""
        return self._making is not None or len(self._ready) < self._wanted

    def take(self) -> Instance | None:
        """Return a prepared instance, the caller's from now on; None if there is none.

        Every call lets the stock grow by one, up to its limit.
        """
        self._wanted = min(self._wanted + 1, self._size_max)
        return self._ready.popleft() if self._ready else None

    def work(self) -> None:
        """Do a small step towards the next instance. Only where nobody waits for the thread.

        Where none can be made, none is until the next `take`: sessions are made as without a stock, and
        tell what is wrong.
        """
        if self._making is None:
            if not self.wants:
                return
            self._making = self._prepare()
        try:
            next(self._making)
        except StopIteration:
            self._making = None
        except Exception:  # noqa: BLE001 - a courtesy; whoever opens a session meets the same error
            self._making = None
            self._wanted = 0

    def close(self) -> None:
        """Free every instance. Safe to call again."""
        making, self._making = self._making, None
        if making is not None:
            making.close()
        self._wanted = 0
        while self._ready:
            self._ready.popleft().close()

    def _prepare(self) -> Generator[None, None, None]:
        if self._touched is None:
            self._touched = rehearse(self._program, self._facts)
            yield
        instance = Instance(self._program, memory_bytes_max=self._program.image.size)
        done = False
        try:
            for ranges, write, pages in (
                (self._touched.read, False, _READ_PAGES_A_STEP),
                (self._touched.written, True, _WRITTEN_PAGES_A_STEP),
            ):
                left = pages * PAGE
                for offset, length in ranges:
                    instance.memory.populate(offset, length, write=write)
                    left -= length
                    if left <= 0:
                        left = pages * PAGE
                        yield
            self._ready.append(instance)
            done = True
        finally:
            if not done:
                instance.close()
