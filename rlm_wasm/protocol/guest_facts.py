"""The facts of a built guest: what it was made of, and where its parts lie in its memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What a guest folder holds. Addresses are offsets in linear memory; sizes are bytes."""

    format: int
    recipe: str
    cpython: str
    wasmtime: str
    raw_sha256: str
    code_sha256: str
    image_sha256: str
    image_bytes: int
    image_mac: str
    stack_pointer: int
    inbox: int
    inbox_bytes: int
    seed: int
    exit_status: int
    interrupt_reason: int
    signal_tripped: int
    any_tripped: int
    eval_breaker: int
    eval_breaker_bit: int
    progress: int
    files_limits: int
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    # With C in them, linked in: those of a variant of the guest.
    packages: tuple[str, ...] = ()
