"""The guest as zygotes are given it: files in memory, read and authenticated once by the host."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.host.compilation import compile_apart
from rlm_wasm.system import forks
from rlm_wasm.system.memfd import MemoryFile, sealed_memfd


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
    guest = find_guest()
    code = MemoryFile(sealed_memfd("rlm-code", native_code(guest.read_code(), compile_apart)))
    return GuestFiles(guest, code, MemoryFile(sealed_memfd("rlm-image", guest.read_image())))
