"""A guest's listing of its files, or a part of one of them: guest-made, so typed and bounded here."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from rlm_wasm.errors import BoundaryViolation, UsageError
from rlm_wasm.protocol.guest_frames import check_shape

PATH_BYTES_MAX: Final = 4095
NAME_BYTES_MAX: Final = 255
# What one entry of a listing takes: its path in hexadecimal, and numbers.
ENTRY_BYTES_MAX: Final = 2 * PATH_BYTES_MAX + 100
_SIZE_MAX: Final = 1 << 33
# What a file system holds of a time.
_TIME_MAX: Final = (1 << 63) - 1
Kind = Literal["file", "folder", "link"]


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file, folder or link of a guest, by its whole path. Bytes that are no UTF-8 are surrogates in it."""

    path: str
    kind: Kind
    size: int
    modified_ns: int


class _Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By column, so that a long one nests no deeper and holds no more lists than a short one."""

    paths: list[Annotated[str, msgspec.Meta(max_length=2 * PATH_BYTES_MAX)]]
    kinds: Annotated[str, msgspec.Meta(pattern="^[dfl]*$")]
    sizes: list[Annotated[int, msgspec.Meta(ge=0, le=_SIZE_MAX)]]
    modified_ns: list[Annotated[int, msgspec.Meta(ge=0, le=_TIME_MAX)]]


_DECODER: Final = msgspec.json.Decoder(_Listing)
_KINDS: Final[dict[str, Kind]] = {"d": "folder", "f": "file", "l": "link"}


def guest_path(path: object) -> bytes:
    """Return a path for a guest as its bytes.

    Raises:
        UsageError: it is no str, is not absolute, or is longer than a guest's paths are.
    """
    if not isinstance(path, str):
        raise UsageError(f"a path in the guest is a str, not a {type(path).__name__}")
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{path!a} is no path") from None
    if not raw.startswith(b"/") or b"\0" in raw or len(raw) > PATH_BYTES_MAX:
        raise UsageError(f"{path!a} is no absolute path of at most {PATH_BYTES_MAX} bytes")
    return raw


def decode_listing(frame: bytes, *, entries_max: int) -> tuple[GuestFile, ...]:
    """Decode a listing; the only exception that leaves this function is BoundaryViolation."""
    try:
        check_shape(
            frame, bytes_max=entries_max * ENTRY_BYTES_MAX + 100, nesting_max=2, strings_max=entries_max + 8
        )
        told = _DECODER.decode(frame)
        if len(told.paths) > entries_max:
            raise BoundaryViolation(f"the guest lists {len(told.paths)} files where {entries_max} may be")
        columns = zip(told.paths, told.kinds, told.sizes, told.modified_ns, strict=True)
        return tuple(
            GuestFile(_path(path), _KINDS[kind], size, modified) for path, kind, size, modified in columns
        )
    except BoundaryViolation:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a decoder raises, the guest did it
        raise BoundaryViolation(f"the guest's list of files is none: {type(exc).__name__}") from None


def decode_part(frame: bytes, *, bytes_max: int) -> bytes:
    """Decode a part of a file; the only exception that leaves this function is BoundaryViolation."""
    try:
        data = binascii.a2b_base64(frame, strict_mode=True) if frame else b""
    except ValueError:
        raise BoundaryViolation("the guest's part of a file is none") from None
    if len(data) > bytes_max:
        raise BoundaryViolation(
            f"the guest sent {len(data)} bytes of a file where {bytes_max} were asked for"
        )
    return data


def _path(shown: str) -> str:
    raw = bytes.fromhex(shown)
    names = raw.split(b"/")[1:]
    if not raw.startswith(b"/") or b"\0" in raw or (raw != b"/" and not all(map(_is_name, names))):
        raise BoundaryViolation(f"the guest lists {raw[:100]!r}, which is no path")
    return raw.decode("utf-8", "surrogateescape")


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= NAME_BYTES_MAX and name not in (b".", b"..")
