"""`guest/manifest.toml`: the pinned sources, toolchains and boundary of the guest, as typed values.

The manifest is our own file, so a mistake in it is a broken installation: one ArtifactError that
names the key. Nothing here touches the network.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.guest_sources import MANIFEST_FILE, guest_dir
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.guestbuild.toml_table import Table
from rlm_wasm.guestbuild.wheel_name import read_wheel_name
from rlm_wasm.limits import BASE_IMAGE

FORMAT: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SDIST: Final = re.compile(r"[A-Za-z0-9_]+-[A-Za-z0-9_.]+\.tar\.gz")
_POOL: Final = re.compile(r"pool/[A-Za-z0-9+.~_/-]+")


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file, exactly: any origin may serve it, only these bytes are accepted."""

    sha256: str
    size_bytes: int
    pool: str | None
    urls: tuple[str, ...]
    wheel: str | None = None
    # A source distribution, and the module that its pyproject.toml names as build backend.
    sdist: str | None = None
    backend: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names a local copy may have."""
        paths = (self.pool, self.wheel, self.sdist, *self.urls)
        return tuple(dict.fromkeys(path.rpartition("/")[2] for path in paths if path))

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class PythonPin:
    """One CPython release. `files` are alternatives with the same content."""

    series: str
    version: str
    config_site: str
    patches: tuple[str, ...]
    files: tuple[PinnedFile, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """One release of a library or of data. `files` are alternatives with the same content."""

    version: str
    files: tuple[PinnedFile, ...]


@dataclass(frozen=True, slots=True)
class LibraryPin:
    """A C library that modules of the standard library need, and how it is compiled.

    `configure` is how CPython's configure calls it. `sources`, without those in `leave`, are patterns below
    `folder` of the tarball, and so are `include`, its own include folders, and `headers_in`, below which
    `headers` keep their paths. `releases` are in the order of preference.
    """

    name: str
    archive: str
    configure: str
    folder: str
    sources: tuple[str, ...]
    leave: tuple[str, ...]
    include: tuple[str, ...]
    headers_in: str
    headers: tuple[str, ...]
    flags: tuple[str, ...]
    releases: tuple[Release, ...]


@dataclass(frozen=True, slots=True)
class ToolchainPin:
    """A clang that makes wasm, for hosts of one `machine`; `llvm` is its folder inside the packages."""

    name: str
    machine: str
    llvm: str
    cflags: tuple[str, ...]
    packages: tuple[PinnedFile, ...]
    wasi_libc: PinnedFile


@dataclass(frozen=True, slots=True)
class CxxPin:
    """The C++ library for what the toolchain of this name compiles."""

    toolchain: str
    files: tuple[PinnedFile, ...]


@dataclass(frozen=True, slots=True)
class PackagePin:
    """A package with C in it, that a variant of the guest has. It is built by the meson that it brings.

    `meson` is that program below the tarball's folder, `options` are for it, and `flags` for both compilers.
    `extensions` are its modules in C, `imports` what is imported before the image is taken, `leave` what is
    not frozen. `archives` are linked as well. `cython` is a tool of the build; `test_wheels` are what its own
    tests need.
    """

    name: str
    version: str
    licence: str
    meson: str
    options: tuple[str, ...]
    flags: tuple[str, ...]
    cxx_flags: tuple[str, ...]
    patches: tuple[str, ...]
    extensions: tuple[str, ...]
    imports: tuple[str, ...]
    leave: tuple[str, ...]
    archives: tuple[str, ...]
    seconds: int
    cython: PinnedFile
    files: tuple[PinnedFile, ...]
    test_wheels: tuple[PinnedFile, ...]


@dataclass(frozen=True, slots=True)
class HostFile:
    """Something the compiler needs from the machine: a library by soname, or a tool by name."""

    name: str
    path: str
    file: PinnedFile


@dataclass(frozen=True, slots=True)
class Boundary:
    """The module's complete import and export lists, sorted."""

    module: str
    imports: tuple[str, ...]
    exports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompileFlags:
    """How CPython is compiled for every toolchain."""

    target: str
    source_date_epoch: int
    configure: tuple[str, ...]
    opt: tuple[str, ...]
    small: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainingFlags:
    """How CPython is compiled to count, then with what was counted, and merged into one object file.

    `alone` are object files that take no part in the merging's optimisation; `shim` are the files of
    the shim that the training uses.
    """

    instrument: tuple[str, ...]
    use: tuple[str, ...]
    merge: tuple[str, ...]
    alone: tuple[str, ...]
    shim: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkFlags:
    """How the shim is compiled and everything is linked. `wrap`: functions that the guest's shim replaces."""

    shim: tuple[str, ...]
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    wrap: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of `manifest.toml`. `folder` is the guest folder it lies in."""

    folder: Path
    boundary: Boundary
    compile: CompileFlags
    training: TrainingFlags
    link: LinkFlags
    stdlib_exclude: tuple[str, ...]
    pythons: tuple[PythonPin, ...]
    libraries: tuple[LibraryPin, ...]
    zones: tuple[Release, ...]
    toolchains: tuple[ToolchainPin, ...]
    cxx: tuple[CxxPin, ...]
    packages: tuple[PackagePin, ...]
    host_tools: tuple[HostFile, ...]
    host_libraries: tuple[HostFile, ...]

    def python(self, series: str) -> PythonPin:
        """Return the pin of a series such as "3.14"; UsageError lists what there is."""
        for pin in self.pythons:
            if pin.series == series:
                return pin
        known = ", ".join(pin.series for pin in self.pythons)
        raise UsageError(f"no CPython {series} is pinned (there is: {known})")

    def package(self, name: str) -> PackagePin:
        """Return the pin of a package such as "numpy"; UsageError lists what there is."""
        for pin in self.packages:
            if pin.name == name:
                return pin
        known = ", ".join([BASE_IMAGE, *(pin.name for pin in self.packages)])
        raise UsageError(f"there is no image {name} (there are: {known})")


def load_manifest(folder: Path | None = None) -> Manifest:
    """Read the manifest in `folder` (default: the installed guest folder).

    Raises:
        ArtifactError: it is missing, is not TOML, or a key is missing, unknown or malformed.
    """
    folder = folder or guest_dir()
    path = folder / MANIFEST_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    top = Table(path, "", values)
    if top.integer("format") != FORMAT:
        raise ArtifactError(f"{path}: format must be {FORMAT}")
    manifest = Manifest(
        folder=folder,
        boundary=_boundary(top.table("boundary")),
        compile=top.table("compile").record(CompileFlags),
        training=top.table("training").record(TrainingFlags),
        link=top.table("link").record(LinkFlags),
        stdlib_exclude=top.table("stdlib").only("exclude").strings("exclude"),
        pythons=top.each("python", _python),
        libraries=top.each("library", _library),
        zones=top.each("zones", _release),
        toolchains=top.each("toolchain", _toolchain),
        cxx=top.each("cxx", _cxx) if top.has("cxx") else (),
        packages=top.each("package", _package) if top.has("package") else (),
        host_tools=top.each("host_tool", _host_tool),
        host_libraries=top.each("host_library", _host_library),
    )
    top.only(
        "format", "boundary", "compile", "training", "link", "stdlib", "python", "library", "zones",
        "toolchain", "cxx", "package", "host_tool", "host_library",
    )  # fmt: skip
    return manifest


def read_pin(table: Table) -> PinnedFile:
    """Return the file that a table pins. Raises ArtifactError, which names the key."""
    table.only("pool", "urls", "wheel", "sdist", "backend", "bytes", "sha256")
    pin = PinnedFile(
        sha256=table.text("sha256"),
        size_bytes=table.integer("bytes"),
        pool=table.text("pool") if table.has("pool") else None,
        urls=table.strings("urls") if table.has("urls") else (),
        wheel=table.text("wheel") if table.has("wheel") else None,
        sdist=table.text("sdist") if table.has("sdist") else None,
        backend=table.text("backend") if table.has("backend") else "",
    )
    if not _SHA256.fullmatch(pin.sha256):
        raise table.fail("sha256", "must be 64 hexadecimal digits")
    if pin.size_bytes <= 0:
        raise table.fail("bytes", "must be greater than 0")
    if pin.pool is not None and (not _POOL.fullmatch(pin.pool) or "/../" in pin.pool):
        raise table.fail("pool", "must be a path below pool/")
    if not all(url.startswith("https://") for url in pin.urls):
        raise table.fail("urls", "must be https")
    if pin.wheel is not None:
        wheel = read_wheel_name(pin.wheel)
        if wheel is None or not wheel.pure:
            raise table.fail("wheel", "must be the name of a wheel of pure Python")
    if pin.sdist is not None and not _SDIST.fullmatch(pin.sdist):
        raise table.fail("sdist", "must be the name of a source distribution")
    if (pin.backend and not pin.backend.isidentifier()) or bool(pin.backend) != (pin.sdist is not None):
        raise table.fail("backend", "must be a module's name, and belongs to an sdist")
    if not pin.names:
        raise table.fail("pool", "a file needs a pool path, a url or the name of a wheel or sdist")
    return pin


def _python(table: Table) -> PythonPin:
    return table.record(PythonPin, files=_files(table))


def _release(table: Table) -> Release:
    return table.record(Release, files=_files(table))


def _library(table: Table) -> LibraryPin:
    return table.record(LibraryPin, releases=lambda key: table.each(key, _release))


def _toolchain(table: Table) -> ToolchainPin:
    return table.record(
        ToolchainPin, packages=_files(table), wasi_libc=lambda key: read_pin(table.table(key))
    )


def _cxx(table: Table) -> CxxPin:
    return table.record(CxxPin, files=_files(table))


def _package(table: Table) -> PackagePin:
    return table.record(
        PackagePin,
        files=_files(table),
        test_wheels=_files(table),
        cython=lambda key: read_pin(table.table(key)),
    )


def _files(table: Table) -> Callable[[str], tuple[PinnedFile, ...]]:
    return lambda key: table.each(key, read_pin)


def _host_tool(table: Table) -> HostFile:
    table.only("name", "path", "file")
    return HostFile(table.text("name"), table.text("path"), read_pin(table.table("file")))


def _host_library(table: Table) -> HostFile:
    table.only("soname", "file")
    return HostFile(table.text("soname"), "", read_pin(table.table("file")))


def _boundary(table: Table) -> Boundary:
    boundary = table.record(Boundary)
    for key, names in (("imports", boundary.imports), ("exports", boundary.exports)):
        if list(names) != sorted(set(names)):
            raise table.fail(key, "must be sorted, each name once")
    return boundary
