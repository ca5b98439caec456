"""An image of packages on disk: a guest's memory with packages in it, and the manifest that binds the two.

    <guest>/images/<name>/image.json     what is in it, from which files, over which guest; and its MAC
    <guest>/images/<name>/packages.img   linear memory with the packages

The code is the guest's own, so an image costs its memory only. `image.json` is trusted by its MAC (with the
key that vouches for the guest), the memory by the hash and the MAC in it. Over a guest that users share, the
image is shared too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from rlm_wasm.artifacts.files import write_private, write_readable
from rlm_wasm.artifacts.guest import MAC_BYTES_MAX, PAGE_BYTES, Guest, image_mac, read_file
from rlm_wasm.artifacts.machine_key import mac, same
from rlm_wasm.artifacts.shared_cache import check_folder
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.limits import BASE_IMAGE, IMAGE_NAME

FORMAT: Final = 1
# The images that are guests of their own, each with the package of its name linked in; all others are made of
# wheels, over the guest without packages.
VARIANTS: Final = frozenset({"numpy"})
IMAGES_FOLDER: Final = "images"
MANIFEST_FILE, MEMORY_FILE = "image.json", "packages.img"
_MANIFEST_MAC_FILE: Final = MANIFEST_FILE + ".mac"
_MANIFEST_BYTES_MAX: Final = 4 << 20
_PURPOSE: Final = "image-manifest"
_NAME: Final = re.compile(IMAGE_NAME)


@dataclass(frozen=True, slots=True)
class ImagePackage:
    """One package of an image: which file it came from, exactly, and under which licence."""

    name: str
    version: str
    file: str
    bytes: int
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """What an image is made of. `lock_sha256` is that of the lock it was made from; "" if from none."""

    format: int
    name: str
    guest_code_sha256: str
    guest_image_sha256: str
    image_sha256: str
    image_bytes: int
    image_mac: str
    lock_sha256: str
    preload: tuple[str, ...]
    packages: tuple[ImagePackage, ...]


@dataclass(frozen=True, slots=True)
class PackagesImage:
    """An image whose manifest is authenticated, and the guest that its sessions are."""

    manifest: ImageManifest
    guest: Guest


def image_hint(name: str) -> str:
    """Return the command that makes an image of this name."""
    return f"make it with: rlm-wasm guest image {name}" + ("" if name == "data" else " --with PACKAGE")


def checked_image_name(name: str) -> str:
    """Return a name that an image may have. Raises UsageError."""
    if not _NAME.fullmatch(name) or name == BASE_IMAGE or name in VARIANTS:
        raise UsageError(
            f"{name!a} is not the name of an image of packages: a small letter, then letters, digits, - "
            f"and _, and none of: {', '.join((BASE_IMAGE, *sorted(VARIANTS)))}"
        )
    return name


def image_names(guest: Guest) -> list[str]:
    """Return the names of the images over `guest`, sorted."""
    folder = guest.folder / IMAGES_FOLDER
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_image(guest: Guest, name: str) -> PackagesImage:
    """Return the image called `name` over `guest` after checking the MAC of its manifest.

    Raises:
        ArtifactError: there is none, or its manifest is not what this machine wrote for this guest.
    """
    folder = guest.folder / IMAGES_FOLDER / name
    hint = image_hint(name)
    if not (folder / MANIFEST_FILE).is_file():
        known = ", ".join((BASE_IMAGE, *image_names(guest)))
        raise ArtifactError(
            f"there is no image {name} over the guest of this program, but {known}", hint=hint
        )
    if guest.shared:
        for each in (folder.parent, folder):
            check_folder(each)
    text = read_file(folder / MANIFEST_FILE, _MANIFEST_BYTES_MAX, hint, shared=guest.shared)
    found_mac = read_file(folder / _MANIFEST_MAC_FILE, MAC_BYTES_MAX, hint, shared=guest.shared)
    if not same(found_mac, mac(guest.key, _PURPOSE, text)):
        raise ArtifactError(f"{folder / MANIFEST_FILE} was not written by this machine", hint=hint)
    manifest = _manifest(text, folder, hint)
    if (manifest.guest_code_sha256, manifest.guest_image_sha256, manifest.name) != (
        guest.facts.code_sha256,
        guest.facts.image_sha256,
        name,
    ):
        raise ArtifactError(f"{folder} is an image over another guest, or of another name", hint=hint)
    facts = replace(
        guest.facts,
        image_sha256=manifest.image_sha256,
        image_bytes=manifest.image_bytes,
        image_mac=manifest.image_mac,
    )
    wheels = tuple(f"{package.name} {package.version}" for package in manifest.packages)
    return PackagesImage(
        manifest, replace(guest, facts=facts, hint=hint, image_file=folder / MEMORY_FILE, wheels=wheels)
    )


def save_image(folder: Path, manifest: ImageManifest, memory: bytes, guest: Guest) -> None:
    """Write an image's memory, its manifest and that one's MAC into `folder`, for who may read `guest`."""
    manifest = replace(manifest, image_mac=image_mac(memory, guest.key), image_bytes=len(memory))
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True).encode()
    write = write_readable if guest.shared else write_private
    write(folder / MEMORY_FILE, [memory])
    write(folder / MANIFEST_FILE, [text])
    write(folder / _MANIFEST_MAC_FILE, [mac(guest.key, _PURPOSE, text)])


def _manifest(text: bytes, folder: Path, hint: str) -> ImageManifest:
    # Authenticated: this machine wrote it, an older version of this program perhaps.
    values: dict[str, Any] = json.loads(text)
    if set(values) != {f.name for f in fields(ImageManifest)} or values["format"] != FORMAT:
        raise ArtifactError(f"{folder / MANIFEST_FILE} has another format", hint=hint)
    packages = tuple(ImagePackage(**package) for package in values.pop("packages"))
    manifest = ImageManifest(**values | {"packages": packages, "preload": tuple(values["preload"])})
    if manifest.image_bytes <= 0 or manifest.image_bytes % PAGE_BYTES:
        raise ArtifactError(f"{folder / MANIFEST_FILE} describes an impossible image", hint=hint)
    return manifest


def packages_text(packages: Sequence[ImagePackage]) -> str:
    """Return the packages on one line, for people."""
    return ", ".join(f"{package.name} {package.version}" for package in packages)
