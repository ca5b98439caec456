"""The guest as zygotes are given it: files in memory, each image read and authenticated once by the host."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.host.compilation import compile_apart
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system import forks
from rlm_wasm.system.memfd import MemoryFile, sealed_memfd


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The authenticated guest as sealed memory files, shared by every zygote of this process."""

    guest: Guest
    code: MemoryFile
    image: MemoryFile


_reading: Final = forks.module_lock()


def guest_files(image: str = BASE_IMAGE) -> GuestFiles:
    """Return the guest that zygotes of this process are given, with the packages of an image.

    Raises:
        ArtifactError: no guest is built, or no such image, or its files are not what was built.
    """
    with _reading:  # two threads would else read everything twice
        return _read_guest_files(image)


@functools.cache
def _read_guest_files(image: str) -> GuestFiles:
    guest = find_guest(image)
    code = _code_file(guest)
    return GuestFiles(guest, code, MemoryFile(sealed_memfd("rlm-image", guest.read_image())))


# The code of an image is its guest's: one file in memory for all of them.
_codes: Final[dict[str, MemoryFile]] = {}


def _code_file(guest: Guest) -> MemoryFile:
    code = _codes.get(guest.facts.code_sha256)
    if code is None:
        code = MemoryFile(sealed_memfd("rlm-code", native_code(guest.read_code(), compile_apart)))
        _codes[guest.facts.code_sha256] = code
    return code
