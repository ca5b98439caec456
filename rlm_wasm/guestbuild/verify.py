"""Proves that an installed guest is what its facts say, and its boundary what the manifest says."""

from __future__ import annotations

import hashlib

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.image import PackagesImage
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.boundary_check import check_boundary
from rlm_wasm.guestbuild.manifest import Boundary
from rlm_wasm.vm.wasm_format import read_exports, read_imports, strip_data


def verify_image(image: PackagesImage) -> str:
    """Check the memory of an image from its bytes; return what was proven, as one sentence.

    Raises:
        ArtifactError: it is not as it should be.
    """
    manifest = image.manifest
    if hashlib.sha256(image.guest.read_image()).hexdigest() != manifest.image_sha256:
        raise ArtifactError(f"the image {manifest.name} does not match its hash", hint=image.guest.hint)
    return (
        f"the image {manifest.name} has sha256 {manifest.image_sha256}, "
        f"and its list of {len(manifest.packages)} packages was written by this machine"
    )


def verify_guest(guest: Guest, boundary: Boundary) -> tuple[str, ...]:
    """Check every file of `guest` from its bytes; return what was proven, one sentence each.

    Raises:
        ArtifactError: the first thing that is not as it should be.
    """
    facts = guest.facts
    raw, code, image = guest.read_raw(), guest.read_code(), guest.read_image()
    if hashlib.sha256(image).hexdigest() != facts.image_sha256:
        raise ArtifactError(f"the image in {guest.folder} does not match its hash")
    if strip_data(raw)[0] != code:
        raise ArtifactError(f"the code module in {guest.folder} is not the linked module without its data")
    for name, module in (("raw.wasm", raw), ("code.wasm", code)):
        check_boundary(module, boundary)
        imports = tuple(f"{source}.{function}" for source, function, _ in read_imports(module))
        exports = tuple(export for export, _ in read_exports(module))
        if imports != facts.imports or exports != facts.exports:
            raise ArtifactError(f"{name} in {guest.folder} has another boundary than its facts say")
    return (
        "guest.json was written by this machine",
        f"raw.wasm has sha256 {facts.raw_sha256}",
        f"code.wasm has sha256 {facts.code_sha256} and is raw.wasm without its data",
        f"base.img has sha256 {facts.image_sha256}",
        f"imports are exactly the {len(boundary.imports)} listed: {', '.join(facts.imports)}",
        f"exports are exactly the {len(boundary.exports)} listed: {', '.join(facts.exports)}",
    )
