"""Wheels made in a test: a good one, and what somebody hostile would do to it."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ABOUT = "Metadata-Version: 2.1\nName: {}\nVersion: {}\nLicense-Expression: MIT\n"
PURE = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def wheel_files(
    name: str, version: str, modules: Mapping[str, bytes], needs: Iterable[str] = ()
) -> dict[str, bytes]:
    """Return what a wheel of these modules holds, its RECORD aside; they may say otherwise what it is."""
    info = f"{name}-{version}.dist-info"
    about = ABOUT.format(name, version) + "".join(f"Requires-Dist: {need}\n" for need in needs)
    return {f"{info}/METADATA": about.encode(), f"{info}/WHEEL": PURE.encode(), **modules}


def record_of(files: Mapping[str, bytes], info: str) -> bytes:
    lines = [f"{name},{digest(data)},{len(data)}\n" for name, data in files.items()]
    return "".join([*lines, f"{info}/RECORD,,\n"]).encode()


def write_zip(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


def make_wheel(
    folder: Path,
    modules: Mapping[str, bytes],
    name: str = "thing",
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    needs: Iterable[str] = (),
    instead: Mapping[str, bytes | None] | None = None,
) -> Path:
    """Write a wheel; `instead` takes the place of files in it after its RECORD was made, or takes out."""
    files = wheel_files(name, version, modules, needs)
    info = f"{name}-{version}.dist-info"
    files[f"{info}/RECORD"] = record_of(files, info)
    changed = {**files, **(instead or {})}
    members = [(member, data) for member, data in changed.items() if data is not None]
    return write_zip(folder / f"{name}-{version}-{tag}.whl", members)
