"""Instances made ahead of need, with the pages a first cell touches already there.

Most of the time to a session's first result is the kernel's: a page fault for each page of the image
that the first cell reads or writes. Here they are taken while nobody waits.

No guest code has run in an instance of a pool, and none comes back to it: each is made over the
sealed base image, is given to one session, and ends with that session. Taking a page fault ahead copies
the image's page as it is. So a session from the pool starts from the same bytes as any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Final

from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.dirty_pages_unsafe import PAGE
from rlm_wasm.vm.instance import Instance, Program
from rlm_wasm.vm.page_profile import profile_pages

# The most instances one pool holds. Each holds the pages a first cell writes, about half a megabyte.
PREPARED_MAX: Final = 8
# What a step of preparing may touch, so that it takes a fraction of a millisecond.
_READ_PAGES_A_STEP: Final = 512
_WRITTEN_PAGES_A_STEP: Final = 32


class WarmPool:
    """Up to `size_max` prepared instances of one program. One thread's, like the instances."""

    def __init__(self, program: Program, facts: GuestFacts, *, size_max: int = PREPARED_MAX) -> None:
        self._program: Final = program
        self._facts: Final = facts
        self._size_max: Final = size_max
        self._ready: deque[Instance] = deque()
        self._making: Generator[None, None, None] | None = None
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

        Every call lets the pool grow by one, up to its limit.
        """
        self._wanted = min(self._wanted + 1, self._size_max)
        return self._ready.popleft() if self._ready else None

    def work(self) -> None:
        """Do a small step towards the next instance. Only where nobody waits for the thread.

        It takes a fraction of a millisecond; the first of all, which profiles a cell, about two.

        Where none can be made, none is until the next `take`: sessions are made as without a pool, and
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
        touched = profile_pages(self._program, self._facts)
        yield
        instance = Instance(self._program, memory_bytes_max=self._program.image.size)
        done = False
        try:
            for ranges, write, pages in (
                (touched.read, False, _READ_PAGES_A_STEP),
                (touched.written, True, _WRITTEN_PAGES_A_STEP),
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
