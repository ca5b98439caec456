"""The guest this process runs: found, authenticated and linked once, shared by every session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.system import forks
from rlm_wasm.vm.instance import Program

_lock: Final = forks.module_lock()
_loaded: LoadedGuest | None = None


@dataclass(frozen=True, slots=True)
class LoadedGuest:
    """A linked program and the authenticated facts it was built with."""

    program: Program
    guest: Guest


def load_guest_program() -> LoadedGuest:
    """Return the process's guest, loading it on first use.

    Raises:
        ArtifactError: no guest is built, or its files are not what was built.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            guest = find_guest()
            # Two files of many megabytes to authenticate: at the same time, on two cores.
            with ThreadPoolExecutor(1) as reader:
                image = reader.submit(guest.read_image)
                _loaded = LoadedGuest(Program(guest.read_code(), image.result), guest)
        return _loaded


def adopt_guest_program(loaded: LoadedGuest) -> None:
    """Make `loaded` this process's guest: a zygote is handed what the host authenticated."""
    global _loaded
    with _lock:
        _loaded = loaded
