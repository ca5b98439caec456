"""The built guest that this program runs: what it carries, or what its own sources make, and no other.

Several checkouts and versions share a cache, so the newest guest may be another's, and after an upgrade
it is an old one. The name of a guest is the hash of its recipe; working that out takes the whole build,
so a process of its own does it. That costs more than a first result, and so a guest's folder keeps a note of
the sources that it was last found to be made of: a hash of some forty small files, a millisecond. The note
only saves the longer way; what a guest is made of is in its authenticated facts.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import BUILD_HINT, FACTS_FILE, NOTE_FILE, Guest, load_guest, read_note
from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.artifacts.image import VARIANTS, PackagesImage, image_hint, load_image
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.artifacts.shared_cache import SharedCache, shared_cache
from rlm_wasm.artifacts.shipped import ShippedGuest, shipped_guest
from rlm_wasm.errors import ArtifactError
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system.interpreter import interpreter_command
from rlm_wasm.system.standard_descriptors import hold_standard_descriptors

# Below the guest's sources: what the images are made of that this program knows.
LOCKS_FOLDER: Final = "images"
# Checkouts that differ in a comment only make one guest; more of them than this take the longer way.
_NOTED_MAX: Final = 8
# Works the names out.
_NAMES: Final = "rlm_wasm.guestbuild.names"
_NAMES_SECONDS_MAX: Final = 60.0
_UNNAMED: Final = "it cannot be worked out which guest is this program's"
# The code whose changes change a recipe's name, beside the guest's own sources.
_NAMING: Final = ("compilation.py", "manifest.py", "patches.py", "recipe.py", "stage_cache.py", "stages.py")


def find_guest(image: str = BASE_IMAGE, *, shared: bool = True) -> Guest:
    """Return the guest that `RLM_WASM_GUEST` names, else the one that this installation carries, else the one
    that this program's sources make.

    One that is carried is unpacked at its first use, and again where what was unpacked is damaged. The image
    "numpy" is the variant that was built with that package; none is carried. Any other is a memory with
    packages, over the guest that has none. An installation without the guest's sources cannot tell what they
    make, and takes the newest. Without `shared` the cache that users share is not looked at.

    Raises:
        ArtifactError: there is none, or none of that image; the hint says how to make it.
    """
    packages = image_packages(image)
    guest = _find_guest(image if packages else BASE_IMAGE, packages, ask_shared=shared)
    return guest if packages or image == BASE_IMAGE else find_image(guest, image).guest


def find_image(guest: Guest, name: str) -> PackagesImage:
    """Return an image over `guest`; one that this program has a lock for, only if it was made from that.

    Raises:
        ArtifactError: there is none, or it is an older one.
    """
    image = load_image(guest, name)
    if image.manifest.lock_sha256 and image.manifest.lock_sha256 != _lock_sha256(name):
        raise ArtifactError(
            f"the image {name} holds other packages than this program's", hint=image_hint(name)
        )
    return image


def lock_file(sources: Path, name: str) -> Path:
    """Return where the lock of an image that this program knows lies below the guest's sources."""
    return sources / LOCKS_FOLDER / f"{name}.toml"


def _lock_sha256(name: str) -> str:
    """Return the hash of this program's lock for an image; "" where it has none, or no sources at all."""
    try:
        return hashlib.sha256(lock_file(guest_dir(), name).read_bytes()).hexdigest()
    except (ArtifactError, FileNotFoundError):
        return ""


def _find_guest(image: str, packages: tuple[str, ...], *, ask_shared: bool) -> Guest:
    override = os.environ.get("RLM_WASM_GUEST")
    if override:
        return _with_packages(load_guest(Path(override)), packages)
    shared = shared_cache() if ask_shared else None
    if not packages and (carried := shipped_guest()) is not None:
        found = None if shared is None else shared.guest(carried.facts.recipe)
        return found or _unpacked(carried)
    if shared is not None and (found := _of_shared(shared, packages)) is not None:
        return found
    try:
        sources = guest_dir()
    except ArtifactError:
        return newest_guest(image)
    folder = _made_of(sources, packages)
    if folder is not None:
        return load_guest(folder)
    if packages or not _built():
        raise _no_image(image)
    raise ArtifactError(
        f"no guest is built from the sources in {sources}; what is built is of other ones, "
        "of another version perhaps",
        hint=f"{BUILD_HINT} (seconds, where only the guest's Python changed)",
    )


def current_guest(image: str = BASE_IMAGE) -> tuple[Path, str] | None:
    """Return which folder of this user's cache has the guest that this program uses, and its code's hash.

    None: it has none. Nothing is unpacked for it, and no file of it is read; the hash is "" where its facts
    cannot be.

    Raises:
        ArtifactError: it cannot be worked out which one it is.
    """
    packages = image_packages(image)
    override = os.environ.get("RLM_WASM_GUEST")
    folder: Path | None
    if override:
        folder = Path(override)
    elif not packages and (carried := shipped_guest()) is not None:
        return guests_dir() / carried.facts.recipe, carried.facts.code_sha256
    else:
        try:
            sources = guest_dir()
        except ArtifactError:
            folder = next((each for each in _built() if _has_packages(each, packages)), None)
        else:
            folder = _made_of(sources, packages)
    if folder is None:
        return None
    try:
        return guests_dir() / folder.name, load_guest(folder).facts.code_sha256
    except ArtifactError:
        return guests_dir() / folder.name, ""


def newest_guest(image: str = BASE_IMAGE) -> Guest:
    """Return the guest that `RLM_WASM_GUEST` names, or the newest of an image, whatever its sources.

    Raises:
        ArtifactError: none is built.
    """
    packages = image_packages(image)
    override = os.environ.get("RLM_WASM_GUEST")
    if override:
        return _with_packages(load_guest(Path(override)), packages)
    if not packages and shipped_guest() is not None:
        return find_guest()
    for folder in _built():
        guest = load_guest(folder)
        if guest.facts.packages == packages:
            return guest
    raise _no_image(image)


def _of_shared(shared: SharedCache, packages: tuple[str, ...]) -> Guest | None:
    """Return the guest of the shared cache that this program's sources make; None: it has none."""
    guests = [guest for name in shared.names() if (guest := shared.guest(name)) is not None]
    fitting = [guest for guest in guests if guest.facts.packages == packages]
    if not fitting:
        return None
    try:
        sources = guest_dir()
    except ArtifactError:
        return fitting[0]
    digest = _digest(sources, packages)
    for guest in fitting:
        if digest in _digests(guest.read_note()):
            return guest
    # Where they cannot be worked out, no guest is taken for this program's.
    names = _names(sources, packages)
    return next((guest for guest in fitting if not names or guest.facts.recipe in names), None)


def _unpacked(carried: ShippedGuest) -> Guest:
    """Return the guest that this installation carries, unpacked."""
    folder = guests_dir() / carried.facts.recipe
    try:
        return load_guest(folder, hint=f"remove it, and it is unpacked again: rm -r {folder}")
    except ArtifactError:
        carried.unpack(folder)
    return load_guest(folder)


def image_packages(image: str) -> tuple[str, ...]:
    """Return which packages with C the guest of an image has: a variant has the name of its package."""
    return (image,) if image in VARIANTS else ()


def _with_packages(guest: Guest, packages: tuple[str, ...]) -> Guest:
    """Return a guest that was named, if it is of the wanted kind."""
    if guest.facts.packages == packages:
        return guest
    raise ArtifactError(
        f"the guest in {guest.folder} is of the image {_image(guest.facts.packages)}, "
        f"and {_image(packages)} is wanted",
        hint="sandbox.image of the policy, or --image, says which image a session has",
    )


def _has_packages(folder: Path, packages: tuple[str, ...]) -> bool:
    try:
        return load_guest(folder).facts.packages == packages
    except ArtifactError:
        return False


def _image(packages: tuple[str, ...]) -> str:
    return "+".join(packages) or BASE_IMAGE


def _no_image(image: str) -> ArtifactError:
    if image == BASE_IMAGE:
        return ArtifactError(f"no guest is built (looked in {guests_dir()})", hint=BUILD_HINT)
    return ArtifactError(f"the image {image} is not built", hint=f"{BUILD_HINT} --image {image}")


def _made_of(sources: Path, packages: tuple[str, ...]) -> Path | None:
    """Return the folder of this user's cache with the guest that the sources make; None: it is not built."""
    built = _built()
    digest = _digest(sources, packages)
    for folder in built:
        if digest in _digests(read_note(folder)):
            return folder
    names = _names(sources, packages) if built else frozenset[str]()
    for folder in built:
        if folder.name in names or (not names and _has_packages(folder, packages)):
            _note(folder, digest)
            return folder
    return None


def _built() -> list[Path]:
    """Return the folders of built guests, newest first."""
    root = guests_dir()
    built = [p for p in root.iterdir() if (p / FACTS_FILE).is_file() and not p.name.startswith(".")]
    return sorted(built, key=lambda p: (p / FACTS_FILE).stat().st_mtime_ns, reverse=True)


def _digest(sources: Path, packages: tuple[str, ...]) -> str:
    """Return a hash of everything that the names of this program's guests depend on."""
    code = Path(__file__).parent.parent / "guestbuild"
    digest = hashlib.sha256(json.dumps(sorted(packages)).encode())
    for path in (*(code / name for name in _NAMING), *_files(sources)):
        content = path.read_bytes()
        # The length stands before the bytes: no two lists of files look the same one after the other.
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "__pycache__":
                yield from _files(path)
        elif path.suffix in (".c", ".h", ".py", ".toml"):
            yield path


def _names(sources: Path, packages: tuple[str, ...]) -> frozenset[str]:
    """Return the names of all guests with these packages that the sources may make; none without a toolchain.

    Raises:
        ArtifactError: the sources are incomplete, or it cannot be worked out.
    """
    command = interpreter_command(_NAMES, str(sources), *packages)
    if command is None:
        raise ArtifactError(f"{_UNNAMED}: this Python does not know its own executable", hint=BUILD_HINT)
    hold_standard_descriptors()
    try:
        done = subprocess.run(
            command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=_NAMES_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            why = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ArtifactError(f"{_UNNAMED}: {why or done.returncode}", hint=BUILD_HINT)
        return _told_names(done.stdout)
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"{_UNNAMED}: {error}", hint=BUILD_HINT) from error


def _told_names(document: bytes) -> frozenset[str]:
    """Return the names that the process says.

    Raises:
        ArtifactError: it says what is wrong with the sources.
        ValueError or RecursionError: it says something else.
    """
    match json.loads(document):
        case {"error": str(error), "hint": str() | None as hint}:
            raise ArtifactError(error, hint=hint)
        case {"names": [*names]} if all(isinstance(name, str) for name in names):
            return frozenset(names)
    raise ValueError("its process says something else")


def _digests(note: bytes) -> list[str]:
    return note.decode("ascii", "replace").split()


def _note(folder: Path, digest: str) -> None:
    lines = [digest, *_digests(read_note(folder))][:_NOTED_MAX]
    with suppress(ArtifactError):  # a cache that cannot be written: the longer way each time
        write_private(folder / NOTE_FILE, ["\n".join(lines).encode()])
