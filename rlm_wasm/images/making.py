"""The making of an image: its locked files fetched, read through their gate, put into a guest, published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.artifacts.image import (
    FORMAT,
    IMAGES_FOLDER,
    ImageManifest,
    ImagePackage,
    PackagesImage,
    image_names,
    load_image,
    save_image,
)
from rlm_wasm.artifacts.publishing import publish
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.progress import BuildProgress
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.storage import storing
from rlm_wasm.images.lock import ImageLock, LockedPackage
from rlm_wasm.images.source_package import read_sources
from rlm_wasm.images.wheel import UNPACKED_BYTES_MAX, Wheel, canonical, read_wheel

IMAGES_MAX: Final = 16
# For another who makes one: far more than that takes.
WAIT_SECONDS_MAX: Final = 1_800


class Seal(Protocol):
    """Puts files into a guest, imports modules there, and returns its memory."""

    def __call__(self, guest: Guest, files: Mapping[str, bytes], preload: Sequence[str], /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image, and whether it was there already."""

    image: PackagesImage
    reused: bool


def make_image(
    guest: Guest,
    name: str,
    lock: ImageLock,
    store: SourceStore,
    seal: Seal,
    progress: BuildProgress,
    *,
    lock_sha256: str = "",
    force: bool = False,
) -> MadeImage:
    """Make the image `name` over `guest` from a lock, unless it is there and of the same packages.

    `lock_sha256` binds it to a lock of this program's.

    Raises:
        GuestBuildError: a file could not be had, is not what was locked, or does not work in the guest.
    """
    with _alone(guest, progress):
        return _make(guest, name, lock, store, seal, progress, lock_sha256, force)


def _make(
    guest: Guest,
    name: str,
    lock: ImageLock,
    store: SourceStore,
    seal: Seal,
    progress: BuildProgress,
    lock_sha256: str,
    force: bool,
) -> MadeImage:
    packages = tuple(_described(package) for package in lock.packages)
    if not force:
        found = _whole(guest, name)
        if found is not None and (
            found.manifest.packages,
            found.manifest.preload,
            found.manifest.lock_sha256,
        ) == (packages, lock.preload, lock_sha256):
            return MadeImage(found, reused=True)
    _require_room(guest, name)
    progress.begin("packages", "fetching and reading the packages")
    files = unpacked(lock, store, guest.facts.cpython)
    progress.end("packages")
    progress.begin("image", f"putting {len(packages)} packages into the guest")
    memory = seal(guest, files, lock.preload)
    manifest = ImageManifest(
        format=FORMAT,
        name=name,
        guest_code_sha256=guest.facts.code_sha256,
        guest_image_sha256=guest.facts.image_sha256,
        image_sha256=hashlib.sha256(memory).hexdigest(),
        image_bytes=len(memory),
        image_mac="",
        lock_sha256=lock_sha256,
        preload=lock.preload,
        packages=packages,
    )
    root = guest.folder / IMAGES_FOLDER
    with storing("the image", root):
        publish(
            root / name,
            lambda folder: save_image(folder, manifest, memory, guest),
            mode=0o755 if guest.shared else 0o700,
        )
    progress.end("image")
    return MadeImage(load_image(guest, name), reused=False)


@contextmanager
def _alone(guest: Guest, progress: BuildProgress) -> Iterator[None]:
    """Keep every other process from making images over the same guest meanwhile."""
    if guest.shared and not os.access(guest.folder, os.W_OK):
        raise GuestBuildError(
            f"the guest in {guest.folder} is shared, and this user may not put an image there",
            hint="make it as the user who owns that folder; or, with RLM_WASM_SHARED_CACHE set to nothing, "
            "over a guest of your own",
        )
    root = guest.folder / IMAGES_FOLDER
    with storing("the image", root):
        if not root.is_dir():
            _make_folder(root, guest)

    def waiting() -> None:
        progress.note("another image is being made over this guest; waiting for it")

    with held_lock(root / ".lock", seconds_max=WAIT_SECONDS_MAX, waiting=waiting):
        yield


def store_files(packages: Sequence[LockedPackage], store: SourceStore, folder: Path) -> None:
    """Keep the files of packages that lie in `folder`, so that they need not be fetched again."""
    for package in packages:
        if package.file.wheel is not None:
            store.keep(package.file, folder / package.file.wheel)


def unpacked(lock: ImageLock, store: SourceStore, python: str) -> dict[str, bytes]:
    """Return the files of all packages of a lock, by their paths below the folder of packages.

    `python` is the guest's version.

    Raises:
        GuestBuildError: one could not be had or is not what was locked; two hold the same file; all are
            too large.
    """
    files: dict[str, bytes] = {}
    owners: dict[str, str] = {}
    store.fetch_wheels([package.file for package in lock.packages], python)
    for package in lock.packages:
        wheel = _read(package, store.fetch(package.file))
        if (canonical(wheel.name), wheel.version) != (canonical(package.name), package.version):
            raise GuestBuildError(
                f"{package.file.name} is {wheel.name} {wheel.version}, "
                f"and not {package.name} {package.version} as its lock says"
            )
        for path, data in wheel.files.items():
            if files.setdefault(path, data) != data:
                raise GuestBuildError(f"{package.name} and {owners[path]} both hold {path}")
            owners[path] = package.name
    if sum(map(len, files.values())) > UNPACKED_BYTES_MAX:
        raise GuestBuildError(f"the packages hold more than {UNPACKED_BYTES_MAX} bytes")
    return files


def _read(package: LockedPackage, path: Path) -> Wheel:
    if package.file.wheel is not None:
        return read_wheel(path, package.file.wheel)
    return read_sources(path, package.name, package.version, package.licence, package.modules)


def _described(package: LockedPackage) -> ImagePackage:
    pin = package.file
    return ImagePackage(package.name, package.version, pin.name, pin.size_bytes, pin.sha256, package.licence)


def _whole(guest: Guest, name: str) -> PackagesImage | None:
    try:
        image = load_image(guest, name)
        image.guest.read_image()
    except ArtifactError:
        return None
    return image


def _make_folder(folder: Path, guest: Guest) -> None:
    """Make a folder for who may read `guest`, whatever the umask."""
    with suppress(FileExistsError):  # another process makes it at this moment
        folder.mkdir(mode=0o700)
    folder.chmod(0o755 if guest.shared else 0o700)


def _require_room(guest: Guest, name: str) -> None:
    root = guest.folder / IMAGES_FOLDER
    others = [each for each in image_names(guest) if each != name]
    if len(others) >= IMAGES_MAX:
        raise GuestBuildError(
            f"there are {len(others)} images already", hint=f"remove one: rm -r {root / others[0]}"
        )
