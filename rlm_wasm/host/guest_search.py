"""The search for this process's guest, off the event loop: the first may unpack it, or wait for who does."""

from __future__ import annotations

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.process_guest import known_guest, process_guest
from rlm_wasm.errors import ArtifactError, HostExhausted
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system.threads import in_thread


async def found_guest(image: str = BASE_IMAGE) -> Guest | None:
    """Return this process's guest of an image; None: it cannot be had, which is told where it is wanted."""
    guest = known_guest(image)
    if guest is not None:
        return guest
    try:
        return await in_thread(process_guest, image, abandon_on_cancel=True)
    except (ArtifactError, HostExhausted, OSError):
        return None
