"""The guest of this process, as it was handed over: its host found and authenticated it."""

from __future__ import annotations

from rlm_wasm.errors import InternalError
from rlm_wasm.vm.loaded_guest import LoadedGuest

_adopted: LoadedGuest | None = None


def adopt_guest(loaded: LoadedGuest) -> None:
    """Make this the guest of the process and of its forks."""
    global _adopted
    _adopted = loaded


def adopted_guest() -> LoadedGuest:
    """Return the process's guest.

    Raises:
        InternalError: it was given none.
    """
    if _adopted is None:
        raise InternalError("this process was given no guest")
    return _adopted
