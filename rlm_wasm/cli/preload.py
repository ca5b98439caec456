"""Loading the guest while the rest of the command is still being imported."""

from __future__ import annotations

import threading


def preload_guest() -> None:
    """Start loading the guest on another thread: most of it is hashing, on the second core.

    Whatever goes wrong there goes wrong again, and is told, where the guest is wanted.
    """
    threading.Thread(target=_load, name="rlm-wasm-preload", daemon=True).start()


def _load() -> None:
    try:
        from rlm_wasm.worker.program import load_guest_program

        load_guest_program()
    except Exception:  # noqa: BLE001, S110 - told by the caller's own attempt
        pass
