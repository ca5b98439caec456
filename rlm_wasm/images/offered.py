"""Offers to pip beside the index's wheels: packages of ours that are taken from sources.

A wheel of one is made of the modules that its lock names, so that others may need it by name and version. The
image takes the sources themselves.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.guestbuild.sources import SourceStore, SourceUnavailable
from rlm_wasm.images.lock import LockedPackage
from rlm_wasm.images.source_package import read_sources
from rlm_wasm.images.wheel import Wheel

_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: rlm-wasm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Zip's first day: the same bytes whenever it is made.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def offer(
    packages: Sequence[LockedPackage], store: SourceStore, folder: Path, note: Callable[[str], None]
) -> dict[str, LockedPackage]:
    """Write a wheel into `folder` for each package that is taken from sources; return those by file name.

    One whose sources cannot be had is left out, which `note` is told: few images need it.

    Raises:
        GuestBuildError: the sources are damaged.
    """
    offered = {}
    for package in packages:
        if package.modules:
            try:
                path = store.fetch(package.file)
            except SourceUnavailable:
                note(f"{package.name} is not there for packages that need it: its sources could not be had")
                continue
            wheel = read_sources(path, package.name, package.version, package.licence, package.modules)
            name = f"{package.name}-{package.version}-py3-none-any.whl"
            write_wheel(folder / name, wheel)
            offered[name] = package
    return offered


def write_wheel(path: Path, wheel: Wheel) -> None:
    """Write a wheel of pure Python, the same bytes for the same content."""
    info = f"{wheel.name}-{wheel.version}.dist-info"
    files = {**wheel.files, f"{info}/WHEEL": _WHEEL.encode()}
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
