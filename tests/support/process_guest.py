"""The guest of whichever process helpers run in: what a zygote was given, or else what is installed."""

from __future__ import annotations

from rlm_wasm.errors import InternalError
from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.vm.loaded_guest import LoadedGuest


def process_guest() -> LoadedGuest:
    try:
        return adopted_guest()
    except InternalError:
        from rlm_wasm.inline.guest_loader import load_guest_program

        return load_guest_program()
