"""Soft limits: a Python exception raised inside the guest, the way a signal would raise it.

The host writes into guest memory while the fiber is suspended: why, that SIGINT's handler has to
run, and that the interpreter should look. CPython then calls the handler of `rlm_repl`, which
raises. Loops, calls, the regex engine and big-integer arithmetic look at these flags; a guest that
swallows the exception, or has removed the handler, meets the hard limit.

The addresses are facts of the build, never values a running guest gives.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.memory_unsafe import GuestMemory

_WORD: Final = struct.Struct("<I")
_ONE: Final = _WORD.pack(1)
_NONE: Final = _WORD.pack(0)


class Reason(IntEnum):
    """Why a cell is interrupted; the numbers are `rlm_repl`'s."""

    FUEL = 1
    DEADLINE = 2
    OUTPUT = 3
    CANCELLED = 4
    REQUESTS = 5


class Interrupt:
    """Writes and clears the flags of an interrupt in one guest's memory."""

    def __init__(self, facts: GuestFacts) -> None:
        self._facts: Final = facts
        # Whether the flags may be set: a memory from elsewhere may hold an interrupt, too.
        self._may_be_set = True

    def clear(self, memory: GuestMemory) -> None:
        """Forget an interrupt that came too late for the cell it was for."""
        if self._may_be_set:
            facts = self._facts
            for address in (facts.interrupt_reason, facts.signal_tripped, facts.any_tripped):
                memory.write(address, _NONE)
            self._may_be_set = False

    def memory_changed(self) -> None:
        """The guest's memory is another now."""
        self._may_be_set = True

    def request(self, memory: GuestMemory, reason: Reason) -> None:
        """Ask the guest to raise. Safe to repeat: a guest that was suspended in the middle of updating
        its breaker may have overwritten the bit.
        """
        self._may_be_set = True
        facts = self._facts
        memory.write(facts.interrupt_reason, _WORD.pack(reason))
        memory.write(facts.signal_tripped, _ONE)
        memory.write(facts.any_tripped, _ONE)
        self._set_breaker(memory)

    def repeat(self, memory: GuestMemory) -> None:
        """Ask again if the guest has not noticed yet."""
        if memory.read(self._facts.signal_tripped, 4, length_max=4) != _NONE:
            self._set_breaker(memory)

    def _set_breaker(self, memory: GuestMemory) -> None:
        facts = self._facts
        (breaker,) = _WORD.unpack(memory.read(facts.eval_breaker, 4, length_max=4))
        memory.write(facts.eval_breaker, _WORD.pack(breaker | facts.eval_breaker_bit))
