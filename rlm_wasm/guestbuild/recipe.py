"""A recipe: exactly one choice of everything that goes into a guest, and the hash that names it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.manifest import (
    CxxPin,
    LibraryPin,
    Manifest,
    PackagePin,
    PythonPin,
    Release,
    ToolchainPin,
)
from rlm_wasm.guestbuild.patches import Patch, load_patches

DEFAULT_SERIES: Final = "3.14"
# Of CPython's tarball: the standard library.
LIBRARY_FOLDER: Final = "Lib/"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one guest is made of. `additions` to `tools` are files of ours, by relative path."""

    manifest: Manifest
    cpython: PythonPin
    # Each library with the release that is taken.
    libraries: tuple[tuple[LibraryPin, Release], ...]
    zones: Release
    toolchain: ToolchainPin
    # To CPython's C, and to its library in Python: those change what is frozen, and compile nothing again.
    patches: tuple[Patch, ...]
    library_patches: tuple[Patch, ...]
    additions: Mapping[str, bytes]
    shim: Mapping[str, bytes]
    modules: Mapping[str, bytes]
    training: Mapping[str, bytes]
    tools: Mapping[str, bytes]
    # Of a variant: its packages, the patches to each, files of ours for them, and the C++ library.
    packages: tuple[PackagePin, ...] = ()
    package_patches: Mapping[str, tuple[Patch, ...]] = field(default_factory=dict)
    package_files: Mapping[str, bytes] = field(default_factory=dict)
    cxx: CxxPin | None = None

    @property
    def training_shim(self) -> dict[str, bytes]:
        """The files of the shim that the training uses too."""
        missing = [name for name in self.manifest.training.shim if name not in self.shim]
        if missing:
            raise ArtifactError(f"training.shim names files that the shim lacks: {', '.join(missing)}")
        return {name: self.shim[name] for name in self.manifest.training.shim}

    @property
    def text(self) -> str:
        """The choices, for people."""
        libraries = "".join(f", {pin.name} {release.version}" for pin, release in self.libraries)
        packages = "".join(f", {pin.name} {pin.version}" for pin in self.packages)
        return f"CPython {self.cpython.version}{libraries}{packages}, {self.toolchain.name}"


def recipes(
    manifest: Manifest, series: str = DEFAULT_SERIES, packages: Sequence[str] = ()
) -> Iterator[Recipe]:
    """Yield every recipe the manifest allows on this machine, the preferred one first.

    With `packages` they are those of the variant of the guest that has these.

    Raises:
        ArtifactError: the guest folder is incomplete. UsageError: the series or a package is not pinned.
        GuestBuildError: no toolchain is pinned for this kind of machine.
    """
    cpython = manifest.python(series)
    machine = platform.machine()
    toolchains = [pin for pin in manifest.toolchains if pin.machine == machine]
    if not toolchains:
        raise GuestBuildError(
            f"no toolchain is pinned for {machine} machines",
            hint="build on x86_64; the guest itself runs wherever wasmtime does",
        )
    folder = manifest.folder / "patches"
    patches = [patch for name in cpython.patches for patch in load_patches(folder, name)]
    in_python = tuple(patch for patch in patches if patch.file.startswith(LIBRARY_FOLDER))
    in_c = tuple(patch for patch in patches if not patch.file.startswith(LIBRARY_FOLDER))
    pins = tuple(manifest.package(name) for name in sorted(set(packages)))
    package_patches = {
        pin.name: tuple(patch for name in pin.patches for patch in load_patches(folder, name)) for pin in pins
    }
    package_files = _read_folder(manifest.folder / "packages", (".c", ".h", ".py")) if pins else {}
    additions = _read_folder(manifest.folder / "libraries", (".c", ".h"))
    shim = _read_folder(manifest.folder / "shim", (".c", ".h"))
    modules = _read_folder(manifest.folder / "python", (".py",))
    training = _read_folder(manifest.folder / "training", (".c", ".py"))
    tools = _read_folder(manifest.folder / "tools", (".py",))
    # One after the other, not each with each: where a newest release is gone, its elders are taken of all.
    rounds = max(len(pin.releases) for pin in manifest.libraries)
    for toolchain in toolchains:
        cxx = next((pin for pin in manifest.cxx if pins and pin.toolchain == toolchain.name), None)
        if pins and cxx is None:
            continue
        for turn in range(rounds):
            libraries = tuple((pin, _release(pin.releases, turn)) for pin in manifest.libraries)
            yield Recipe(
                manifest, cpython, libraries, _release(manifest.zones, turn), toolchain, in_c, in_python,
                additions, shim, modules, training, tools, pins, package_patches, package_files, cxx,
            )  # fmt: skip


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file's content, for use in a key."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def _release(releases: tuple[Release, ...], turn: int) -> Release:
    return releases[min(turn, len(releases) - 1)]


def _read_folder(folder: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and path.is_file()
    }
    if not found:
        raise ArtifactError(f"the guest's sources are incomplete: nothing in {folder}")
    return found
