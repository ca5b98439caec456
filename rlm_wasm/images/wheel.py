"""The gate of wheels: a file that anybody may have made, and what of it goes into an image.

A wheel is read as data. Nothing of it is executed or written to disk here; it comes out as names and bytes
that were checked, or as one GuestBuildError that says which file and why.
"""

from __future__ import annotations

import base64
import csv
import email.parser
import email.policy
import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.wheel_name import read_wheel_name
from rlm_wasm.images.zip_directory import require_few_files

WHEEL_BYTES_MAX: Final = 64 << 20
FILES_MAX: Final = 10_000
FILE_BYTES_MAX: Final = 32 << 20
UNPACKED_BYTES_MAX: Final = 256 << 20
_RATIO_MAX: Final = 200
_PATH_BYTES_MAX: Final = 1024
_NAME_BYTES_MAX: Final = 255
_DEPTH_MAX: Final = 32

_NATIVE_SUFFIXES: Final = (".so", ".pyd", ".dll", ".dylib", ".a", ".o", ".lib", ".exe", ".wasm")
_NATIVE_NAME: Final = re.compile(r"\.so(\.[0-9]+)+$")
_NATIVE_MAGIC: Final = (b"\x7fELF", b"MZ", b"\0asm", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"!<arch>\n")
_SIGNATURES: Final = frozenset({"RECORD", "RECORD.jws", "RECORD.p7s"})
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 1
_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel says it is, and the files that it installs, by their paths below /packages."""

    name: str
    version: str
    licence: str
    files: Mapping[str, bytes]


def canonical(name: str) -> str:
    """Return a package's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def require_pure(file: str) -> tuple[str, str]:
    """Return name and version of a wheel's file name.

    Raises:
        GuestBuildError: it is no wheel's name, or no wheel of pure Python.
    """
    wheel = read_wheel_name(file)
    if wheel is None:
        raise GuestBuildError(f"{file!a} is not the name of a wheel")
    if not wheel.pure:
        raise GuestBuildError(
            f"{file} is not pure Python: it is for {wheel.python}-{wheel.abi}-{wheel.platform}",
            hint="an image takes wheels that end in py3-none-any; native code must be linked into the guest",
        )
    return wheel.name, wheel.version


def read_wheel(path: Path, file: str | None = None) -> Wheel:
    """Return what the wheel at `path` holds, whose name is `file` if the path's own is another.

    Raises:
        GuestBuildError: it is damaged, not what its name or its RECORD says, unsafe, too large, or not pure.
    """
    file = file or path.name
    name, version = require_pure(file)
    members = _members(path, file)
    info = _dist_info(file, members)
    if canonical(info.removesuffix(".dist-info").rpartition("-")[0]) != canonical(name):
        raise GuestBuildError(f"{file} is not what its name says: it holds {info}")
    _check_record(file, info, members)
    about = _headers(members, f"{info}/METADATA", file)
    if canonical(about.get("Name", "")) != canonical(name) or about.get("Version", "") != version:
        raise GuestBuildError(
            f"{file} is not what its name says: it is {about.get('Name')!a} {about.get('Version')!a}"
        )
    if _headers(members, f"{info}/WHEEL", file).get("Root-Is-Purelib", "").lower() != "true":
        raise GuestBuildError(f"{file} is not pure Python: it says so itself")
    for member, data in members.items():
        _require_no_native(file, member, data)
    return Wheel(about["Name"], version, _licence(about), _installed(file, info, members))


def _members(path: Path, file: str) -> dict[str, bytes]:
    """Return the files of the archive, each name checked and each size bounded before it is read."""
    try:
        if path.stat().st_size > WHEEL_BYTES_MAX:
            raise GuestBuildError(f"{file} is larger than {WHEEL_BYTES_MAX} bytes")
        with path.open("rb") as stream, _opened(stream, file) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > UNPACKED_BYTES_MAX:
                raise GuestBuildError(f"{file} holds more than {UNPACKED_BYTES_MAX} bytes")
            members: dict[str, bytes] = {}
            for info in infos:
                name = checked_path(info.orig_filename, file)
                if info.is_dir():
                    continue
                if name in members:
                    raise GuestBuildError(f"{file} is unsafe: it holds {name} twice")
                members[name] = _content(archive, info, file)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise GuestBuildError(f"{file} is damaged: {error}") from error
    folders = {parent for name in members for parent in _parents(name)}
    if clash := sorted(folders & members.keys()):
        raise GuestBuildError(f"{file} is unsafe: {clash[0]} is a file and a folder")
    return members


def _opened(stream: BinaryIO, file: str) -> zipfile.ZipFile:
    require_few_files(stream, file, FILES_MAX)
    return zipfile.ZipFile(stream)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: str) -> bytes:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise GuestBuildError(f"{file} is unsafe: {info.filename} is not a regular file")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise GuestBuildError(f"{file} is damaged: {info.filename} is packed in a way that no wheel is")
    if info.file_size > FILE_BYTES_MAX:
        raise GuestBuildError(f"{file}: {info.filename} is larger than {FILE_BYTES_MAX} bytes")
    if info.file_size > _RATIO_MAX * (info.compress_size + _CHUNK_BYTES):
        raise GuestBuildError(f"{file} is unsafe: {info.filename} unpacks to {info.file_size} bytes")
    parts, left = [], info.file_size + 1  # one more, to see that what it says is true
    with archive.open(info) as stream:
        while left > 0 and (part := stream.read(min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
    if left != 1:
        raise GuestBuildError(f"{file} is damaged: {info.filename} has not the size that it says")
    return b"".join(parts)


def checked_path(name: str, file: str) -> str:
    """Return a path of an archive if it stays below any folder, on any machine; a folder's without its slash.

    Raises:
        GuestBuildError: it does not.
    """
    path = name.removesuffix("/")
    parts = path.split("/")
    if (
        not path.isprintable()
        or "\\" in path
        or ":" in path
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
        or len(parts) > _DEPTH_MAX
        or len(path.encode("utf-8", "surrogatepass")) > _PATH_BYTES_MAX
        or any(len(part.encode("utf-8", "surrogatepass")) > _NAME_BYTES_MAX for part in parts)
    ):
        raise GuestBuildError(f"{file} is unsafe: it contains {name!a:.200}")
    return path


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _dist_info(file: str, members: Mapping[str, bytes]) -> str:
    found = {name.partition("/")[0] for name in members if name.partition("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise GuestBuildError(f"{file} is damaged: it has {len(found)} folders that describe it")
    return found.pop()


def _check_record(file: str, info: str, members: Mapping[str, bytes]) -> None:
    """Hold each file against what RECORD says of it: all of them, and no others."""
    record = members.get(f"{info}/RECORD")
    if record is None:
        raise GuestBuildError(f"{file} is damaged: it has no RECORD")
    unlisted = members.keys() - {f"{info}/{name}" for name in _SIGNATURES}
    try:
        for row in csv.reader(record.decode("utf-8").splitlines()):
            if not row:
                continue
            name, digest, size = row
            if name not in unlisted:
                if name in members and not digest:
                    continue  # RECORD itself
                raise GuestBuildError(f"{file} is damaged: its RECORD lists {name!a:.200} wrongly")
            unlisted.discard(name)
            _check_digest(file, name, digest, size, members[name])
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise GuestBuildError(f"{file} is damaged: its RECORD cannot be read: {error}") from error
    if unlisted:
        raise GuestBuildError(f"{file} is unsafe: its RECORD does not list {sorted(unlisted)[0]}")


def _check_digest(file: str, name: str, digest: str, size: str, data: bytes) -> None:
    kind, _, told = digest.partition("=")
    if kind not in ("sha256", "sha384", "sha512"):
        raise GuestBuildError(f"{file} is unsafe: its RECORD has no hash of {name}")
    real = base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode("ascii")
    if told.rstrip("=") != real or (size and int(size) != len(data)):
        raise GuestBuildError(f"{file} is unsafe: {name} is not what its RECORD says")


def _headers(members: Mapping[str, bytes], name: str, file: str) -> dict[str, str]:
    data = members.get(name)
    if data is None:
        raise GuestBuildError(f"{file} is damaged: it has no {name}")
    # The first of each: what may stand there several times is not asked for here.
    message = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(data)
    found: dict[str, str] = {}
    for key, value in message.items():
        text = " ".join(str(value).split())
        if key == "Classifier" and text.startswith("License :: "):
            key = "License classifier"
        found.setdefault(key, text)
    return found


def _licence(about: Mapping[str, str]) -> str:
    classifier = about.get("License classifier", "").rpartition(" :: ")[2]
    said = about.get("License-Expression") or about.get("License") or classifier or "not said"
    # It is shown to people, on their terminals too.
    said = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in said)
    return said if len(said) <= 200 else said[:197] + "..."


def _require_no_native(file: str, member: str, data: bytes) -> None:
    if (
        member.lower().endswith(_NATIVE_SUFFIXES)
        or _NATIVE_NAME.search(member)
        or data.startswith(_NATIVE_MAGIC)
    ):
        raise GuestBuildError(f"{file} is not pure Python: {member} is native code")


def _installed(file: str, info: str, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files by where they are installed. Scripts, headers and compiled files of others' are left out."""
    data_folder = info.removesuffix(".dist-info") + ".data"
    found: dict[str, bytes] = {}
    for member, data in members.items():
        path = member
        if member.startswith(f"{data_folder}/"):
            scheme, _, path = member.removeprefix(f"{data_folder}/").partition("/")
            if scheme not in ("purelib", "platlib") or not path:
                continue
        if path.endswith(".pyc"):
            continue
        if path in found:
            raise GuestBuildError(f"{file} is unsafe: it installs {path} twice")
        found[path] = data
    return found
