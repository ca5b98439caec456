"""Unpacking tarballs and Debian packages: our own reader, so that dpkg is not needed.

Only folders, regular files and links that stay inside the destination are made; anything else, and
any name that leads outside, is refused.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from rlm_wasm.errors import GuestBuildError

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER_BYTES: Final = 60
_CHUNK_BYTES: Final = 1 << 20

Keep = Callable[[str], str | None]


def everything(name: str) -> str | None:
    """A `Keep` that unpacks all members under their own names."""
    return name


def below(*prefixes: str) -> Keep:
    """A `Keep` that unpacks the members at or below any of `prefixes`, under their own names."""

    def keep(name: str) -> str | None:
        return name if any(name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes) else None

    return keep


def unpack_tar(path: Path, into: Path, keep: Keep = everything) -> None:
    """Unpack a .tar.xz or .tar.gz. `keep` maps a member's clean name to its new name, or None to skip it.

    Raises:
        GuestBuildError: the archive is damaged or unsafe; `into` is then incomplete.
    """
    with path.open("rb") as stream:
        _unpack(stream, into, keep, path.name)


def unpack_deb(path: Path, into: Path, keep: Keep = everything) -> None:
    """Unpack the data of a Debian package; like `unpack_tar`."""
    with path.open("rb") as stream:
        _unpack(_deb_data(stream, path.name), into, keep, path.name)


def _deb_data(stream: IO[bytes], label: str) -> IO[bytes]:
    """Return the data.tar of an ar archive (one is megabytes small: read whole)."""
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise GuestBuildError(f"{label} is not a Debian package")
    while header := stream.read(_AR_HEADER_BYTES):
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58]
        if len(header) != _AR_HEADER_BYTES or header[58:] != b"`\n" or not size.strip().isdigit():
            break
        count = int(size)
        if name.startswith("data.tar"):
            data = stream.read(count)
            if len(data) != count:
                break
            return io.BytesIO(data)
        stream.seek(count + count % 2, os.SEEK_CUR)
    raise GuestBuildError(f"{label} is damaged: no complete data archive in it")


def _unpack(stream: IO[bytes], into: Path, keep: Keep, label: str) -> None:
    into.mkdir(parents=True, exist_ok=True)
    root = into.resolve()
    try:
        with tarfile.open(fileobj=stream, mode="r:*") as archive:
            for member in archive:
                name = _clean(member.name, label)
                new = keep(name) if name else None
                if new is not None:
                    _unpack_member(archive, member, root, _clean(new, label), keep, label)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise GuestBuildError(f"{label} is damaged: {error}") from error


def _unpack_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, name: str, keep: Keep, label: str
) -> None:
    target = root / name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(root):
        raise GuestBuildError(f"{label} is unsafe: {name} leads outside through a link")
    target.unlink(missing_ok=True)
    if member.issym():
        pointed = Path(os.path.normpath(target.parent.resolve() / member.linkname))
        if not pointed.is_relative_to(root):
            raise GuestBuildError(f"{label} is unsafe: the link {name} leads outside")
        target.symlink_to(member.linkname)
    elif member.islnk():
        other = keep(_clean(member.linkname, label))
        if other is None or not (root / other).is_file() or (root / other).is_symlink():
            raise GuestBuildError(f"{label} is damaged: {name} links to a file that is not there")
        shutil.copyfile(root / other, target)
        target.chmod((root / other).stat().st_mode & 0o777)
    elif member.isreg():
        source = archive.extractfile(member)
        if source is None:
            raise GuestBuildError(f"{label} is damaged: {name} has no content")
        with source, target.open("xb") as out:
            shutil.copyfileobj(source, out, _CHUNK_BYTES)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
        # Makefiles compare times: generated files must stay newer than what they came from.
        os.utime(target, (member.mtime, member.mtime))
    else:
        raise GuestBuildError(f"{label} is unsafe: {name} is neither a file, a folder nor a link")


def _clean(name: str, label: str) -> str:
    """Return `name` without "./" and doubled slashes; refuse absolute names and "..". "" is the root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise GuestBuildError(f"{label} is unsafe: it contains {name!r}")
    return "/".join(parts)
