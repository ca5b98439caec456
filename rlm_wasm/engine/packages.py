"""The packages that sessions of an image have, as a model is told of them."""

from __future__ import annotations

from functools import cache

from rlm_wasm.artifacts.installed import find_guest, find_image, image_packages
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
        return _packages(image)
    except (ArtifactError, OSError):
        return ()


@cache
def _packages(image: str) -> tuple[str, ...]:
    made = find_image(find_guest(), image).manifest.packages
    return tuple(f"{package.name} {package.version}" for package in made)
