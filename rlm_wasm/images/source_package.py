"""A package of pure Python out of its sources: for what is published with native code only.

Its build is not run: the modules are taken as they lie in the archive, and the C beside them is not. Such a
package falls back to its Python where its C is not there; the recipe is the place that says so.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.images.wheel import (
    FILE_BYTES_MAX,
    FILES_MAX,
    UNPACKED_BYTES_MAX,
    WHEEL_BYTES_MAX,
    Wheel,
    checked_path,
)

# Where the modules of a source archive lie, below its one folder.
_ROOTS: Final = ("", "src/", "lib/")
_SUFFIXES: Final = (".py", ".pyi", ".typed")
_MODULE: Final = "{}/__init__.py"


def read_sources(path: Path, name: str, version: str, licence: str, top_level: tuple[str, ...]) -> Wheel:
    """Return the modules called `top_level` of a source archive, as a wheel would install them.

    Raises:
        GuestBuildError: the archive is damaged, unsafe or too large, or has no such module.
    """
    members = _members(path)
    files: dict[str, bytes] = {}
    for module in top_level:
        root = next((root for root in _ROOTS if root + _MODULE.format(module) in members), None)
        if root is None:
            raise GuestBuildError(f"{path.name} has no package {module}")
        start = f"{root}{module}/"
        files |= {
            member.removeprefix(root): data
            for member, data in members.items()
            if member.startswith(start) and member.endswith(_SUFFIXES)
        }
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n"
    files[f"{name}-{version}.dist-info/METADATA"] = about.encode()
    return Wheel(name, version, licence, files)


def _members(path: Path) -> dict[str, bytes]:
    """Return the regular files below the one folder of the archive; links are not followed, nor taken."""
    found: dict[str, bytes] = {}
    total = 0
    try:
        if path.stat().st_size > WHEEL_BYTES_MAX:
            raise GuestBuildError(f"{path.name} is larger than {WHEEL_BYTES_MAX} bytes")
        with tarfile.open(path, "r:*") as archive:
            for count, member in enumerate(archive):
                total += member.size
                if count >= FILES_MAX or member.size > FILE_BYTES_MAX or total > UNPACKED_BYTES_MAX:
                    raise GuestBuildError(f"{path.name} holds more than a package may")
                name = checked_path(member.name, path.name).partition("/")[2]
                if member.isreg() and name.endswith(_SUFFIXES):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    found[name] = stream.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise GuestBuildError(f"{path.name} is damaged: {error}") from error
    return found
