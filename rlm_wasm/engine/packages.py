"""The packages that sessions of an image have, as a model is told of them."""

from __future__ import annotations

from rlm_wasm.artifacts.installed import image_packages
from rlm_wasm.artifacts.process_guest import process_guest
from rlm_wasm.errors import ArtifactError
from rlm_wasm.limits import BASE_IMAGE


def packages_of(image: str) -> tuple[str, ...]:
    """Return name and version of each package; none where the image is not there, which its sessions tell.

    A package that is linked into the guest is told by its name alone.
    """
    if image == BASE_IMAGE:
        return ()
    if linked := image_packages(image):
        return linked
    try:
        return process_guest(image).wheels
    except (ArtifactError, OSError):
        return ()
