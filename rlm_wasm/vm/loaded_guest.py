"""The guest of a process: what its sessions are made of."""

from __future__ import annotations

from dataclasses import dataclass

from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.instance import Program


@dataclass(frozen=True, slots=True)
class LoadedGuest:
    """A linked program and the authenticated facts it was built with."""

    program: Program
    facts: GuestFacts
