"""Runs the module that CPython is trained in, and reads what it counted."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from rlm_wasm.guestbuild.hostless import call_without_host
from rlm_wasm.guestbuild.prepare import lay_out
from rlm_wasm.vm.compilation import compile_module
from rlm_wasm.vm.instance import Instance, Program

# Some hundred times what the programs take: a training that never ends fails the build.
_FUEL: Final = 100_000_000_000_000
_MEMORY_BYTES_MAX: Final = 1 << 30
_PROFILE_BYTES_MAX: Final = 256 << 20
_PLACE: Final = struct.Struct("<2I")


def train_guest(raw_path: Path) -> bytes:
    """Run the training programs of the linked module at `raw_path`; return its raw profile.

    There is no host and no clock, so that the same module gives the same bytes each time.

    Raises:
        ArtifactError: the module is not of the expected form, or a program failed.
    """
    code, image = lay_out(raw_path.read_bytes())
    program = Program(compile_module(code), image)
    try:
        instance = Instance(program, memory_bytes_max=_MEMORY_BYTES_MAX)
        try:
            instance.set_fuel(_FUEL)
            for name in ("_initialize", "rlm_train"):
                call_without_host(instance, name, 0)
            place = call_without_host(instance, "rlm_profile", 1)
            address, length = _PLACE.unpack(instance.memory.read(place, _PLACE.size, length_max=_PLACE.size))
            return bytes(instance.memory.read(address, length, length_max=_PROFILE_BYTES_MAX))
        finally:
            instance.close()
    finally:
        program.close()
