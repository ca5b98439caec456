"""The guest as zygotes are given it: files in memory, read and authenticated once by the host."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from rlm_wasm.image.artifact import Guest
from rlm_wasm.image.compiled import native_file
from rlm_wasm.image.installed import find_guest
from rlm_wasm.image.memfd import MemoryFile, sealed_memfd
from rlm_wasm.sandbox import forks


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The authenticated guest as sealed memory files, shared by every zygote of this process."""

    guest: Guest
    code: MemoryFile
    image: MemoryFile


_reading: Final = forks.module_lock()


def guest_files() -> GuestFiles:
    """Return the guest that every zygote of this process is given, read and authenticated once."""
    with _reading:  # two threads would else read everything twice
        return _read_guest_files()


@functools.cache
def _read_guest_files() -> GuestFiles:
    from rlm_wasm.sandbox.engine import CONFIGURATION, engine

    guest = find_guest()
    code = native_file(engine, guest.read_code(), CONFIGURATION)
    return GuestFiles(guest, MemoryFile(code), MemoryFile(sealed_memfd("rlm-image", guest.read_image())))
