"""The guest as zygotes are given it: files in memory, each image read and authenticated once by the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.process_guest import loading_guest
from rlm_wasm.host.compilation import compile_apart
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system.memfd import MemoryFile, sealed_memfd


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The authenticated guest as sealed memory files, shared by every zygote of this process."""

    guest: Guest
    code: MemoryFile
    image: MemoryFile


_read: Final[dict[str, GuestFiles]] = {}


def guest_files(image: str = BASE_IMAGE) -> GuestFiles:
    """Return the guest that zygotes of this process are given, with the packages of an image.

    Raises:
        ArtifactError: no guest is built, or no such image, or its files are not what was built.
    """
    if (files := _read.get(image)) is not None:
        return files
    with loading_guest(image) as guest:
        if image not in _read:  # by another thread meanwhile
            code = _code_file(guest)
            _read[image] = GuestFiles(guest, code, MemoryFile(sealed_memfd("rlm-image", guest.read_image())))
        return _read[image]


# The code of an image is its guest's: one file in memory for all of them.
_codes: Final[dict[str, MemoryFile]] = {}


def _code_file(guest: Guest) -> MemoryFile:
    code = _codes.get(guest.facts.code_sha256)
    if code is None:
        code = MemoryFile(sealed_memfd("rlm-code", native_code(guest.read_code(), compile_apart)))
        _codes[guest.facts.code_sha256] = code
    return code
