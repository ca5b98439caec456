"""A saved session's state as one of this process."""

from __future__ import annotations

from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.vm.snapshot import Layer, MemorySnapshot


def loaded_snapshot(
    runs: tuple[tuple[int, bytes], ...], *, size: int, virtual_ns: int, image: str
) -> MemorySnapshot:
    """Return a snapshot of these pages over the guest of this process with the packages of an image.

    Raises:
        ArtifactError: no guest is built, or its files are not what was built.
    """
    return MemorySnapshot(load_guest_program(image).program, None, Layer(runs), size, virtual_ns)
