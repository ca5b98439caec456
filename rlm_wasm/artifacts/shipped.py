"""The built guest that a wheel carries, packed; and how it becomes one of this machine's at its first use.

    guest.json          the facts of the guest, and the hash and size of each file of it
    guest.json.sha256   the hash of that
    guest.zst           raw.wasm, base.img and code.wasm behind one another, one zstd stream

These files are as trusted as the package's own code, which lies beside them; every byte that comes out is
held against the hashes all the same, so that a damaged one is told and never used. What was unpacked is
authenticated by this machine's key, as if it had been built here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.first_use import once
from rlm_wasm.artifacts.guest import Guest, image_mac, save_facts
from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.artifacts.image import IMAGES_FOLDER
from rlm_wasm.artifacts.publishing import publish
from rlm_wasm.errors import ArtifactError
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.system.zstd import CompressionParameter, ZstdCompressor, ZstdError, bounded_decompressor

FORMAT: Final = 1
FACTS_FILE, HASH_FILE, CONTENT_FILE = "guest.json", "guest.json.sha256", "guest.zst"
# Beside what is unpacked.
LOCK_FILE: Final = ".unpacking.lock"
_FILES: Final = (artifact.RAW_FILE, artifact.IMAGE_FILE, artifact.CODE_FILE)
# The files repeat much of one another, at such distances.
_WINDOW_LOG: Final = 26
LEVEL: Final = 12
_PIECE_BYTES: Final = 1 << 20
_DOCUMENT_BYTES_MAX: Final = 1 << 20
_FILE_BYTES_MAX: Final = 1 << 30
_HINT: Final = "install rlm-wasm again"


@dataclass(frozen=True, slots=True)
class ShippedGuest:
    """A packed guest whose description is whole. Its content is checked when it is unpacked."""

    folder: Path
    # With an image MAC that fits no machine: each makes its own.
    facts: GuestFacts
    sizes: tuple[int, ...]

    def unpack(self, folder: Path) -> None:
        """Make `folder` hold this guest, as if it had been built here; of several who do, one does.

        Raises:
            ArtifactError: the packed guest is damaged, or cannot be written, or another process that unpacks
                it does not come to an end; `folder` is as it was.
        """
        with held_lock(folder.parent / LOCK_FILE), once("unpacking the guest"):
            if _lies_in(folder):  # another process was first
                return
            try:
                # Images over it are of this guest, however damaged it is.
                publish(folder, self._fill, keep=(IMAGES_FOLDER,))
            except OSError as error:
                raise ArtifactError(
                    f"cannot unpack the guest into {folder}: {error.strerror}",
                    hint="free some space (100 MB), or set RLM_WASM_CACHE to another disk",
                ) from error

    def _fill(self, folder: Path) -> None:
        image = self._write_files(folder)
        save_facts(folder, replace(self.facts, image_mac=image_mac(image)))

    def _write_files(self, folder: Path) -> bytes:
        """Write the files below `folder`; return the image."""
        image = b""
        content = self._content()
        facts = self.facts
        expected = (facts.raw_sha256, facts.image_sha256, facts.code_sha256)
        for name, size, sha256 in zip(_FILES, self.sizes, expected, strict=True):
            data = bytearray()
            while len(data) < size and (piece := content.read(size - len(data))):
                data += piece
            if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                raise _damaged(self.folder / CONTENT_FILE, f"its {name} does not match its hash")
            write_private(folder / name, [bytes(data)])
            if name == artifact.IMAGE_FILE:
                image = bytes(data)
        if content.read(1) or not content.ended:
            raise _damaged(self.folder / CONTENT_FILE, "it does not end where it says")
        return image

    def _content(self) -> _Content:
        return _Content(self.folder / CONTENT_FILE)


class _Content:
    """The unpacked bytes of a file, a piece at a time: never more of them than were asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed = _read(path, _FILE_BYTES_MAX)
        self._stream = bounded_decompressor(_WINDOW_LOG)

    @property
    def ended(self) -> bool:
        """Whether that was all, to the last byte of the file."""
        return self._stream.eof and not self._stream.unused_data

    def read(self, count: int) -> bytes:
        """Return at most so many bytes; none at the end."""
        try:
            while not self._stream.eof and (self._packed or not self._stream.needs_input):
                piece = self._stream.decompress(self._packed, min(count, _PIECE_BYTES))
                self._packed = b""
                if piece:
                    return piece
        except ZstdError as error:
            raise _damaged(self._path, str(error)) from error
        return b""


def shipped_guest() -> ShippedGuest | None:
    """Return the guest that this installation carries; None: it carries none, and one is built.

    Raises:
        ArtifactError: it carries one that is damaged.
    """
    folder = Path(__file__).resolve().parent.parent / "_shipped"
    return open_shipped(folder) if (folder / FACTS_FILE).is_file() else None


def open_shipped(folder: Path) -> ShippedGuest:
    """Return the packed guest in `folder`.

    Raises:
        ArtifactError: its description is damaged, or of another format.
    """
    path = folder / FACTS_FILE
    text = _read(path, _DOCUMENT_BYTES_MAX)
    if hashlib.sha256(text).hexdigest().encode() != _read(folder / HASH_FILE, 64):
        raise _damaged(path, "it does not match its hash")
    try:
        document = json.loads(text)
        facts, sizes = _facts(document["facts"]), document["sizes"]
        if document["format"] != FORMAT or len(sizes) != len(_FILES):
            raise ValueError("another format")
        if not all(type(size) is int and 0 < size <= _FILE_BYTES_MAX for size in sizes):
            raise ValueError("impossible sizes")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return ShippedGuest(folder, facts, tuple(sizes))


def pack(guest: Guest, folder: Path, level: int = LEVEL) -> None:
    """Write `guest` into `folder` as `open_shipped` reads it: of one guest, at one level, the same bytes."""
    parts = (guest.read_raw(), guest.read_image(), guest.read_code())
    options: dict[int, int] = {
        CompressionParameter.compression_level: level,
        CompressionParameter.window_log: _WINDOW_LOG,
        CompressionParameter.enable_long_distance_matching: 1,
        CompressionParameter.checksum_flag: 1,
    }
    stream = ZstdCompressor(options=options)
    facts = asdict(replace(guest.facts, image_mac=""))
    document = {"format": FORMAT, "facts": facts, "sizes": [len(part) for part in parts]}
    text = json.dumps(document, indent=1, sort_keys=True).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONTENT_FILE).write_bytes(b"".join([*map(stream.compress, parts), stream.flush()]))
    (folder / FACTS_FILE).write_bytes(text)
    (folder / HASH_FILE).write_text(hashlib.sha256(text).hexdigest(), encoding="ascii")


def _facts(values: dict[str, Any]) -> GuestFacts:
    """Return facts of the right types. Raises ValueError, KeyError, TypeError or AttributeError."""
    types = get_type_hints(GuestFacts)
    if set(values) != {field.name for field in fields(GuestFacts)}:
        raise ValueError("other facts than a guest has")
    made: dict[str, Any] = {}
    for name, kind in types.items():
        value = values[name]
        if kind in (int, str):
            if type(value) is not kind:
                raise ValueError(f"{name} is no {kind.__name__}")
            made[name] = value
        else:
            made[name] = tuple(map(str, value))
    facts = GuestFacts(**made)
    if not facts.recipe.isalnum():  # it becomes the name of a folder
        raise ValueError("recipe is no name of a guest")
    return facts


def _lies_in(folder: Path) -> bool:
    try:
        guest = artifact.load_guest(folder)
        guest.read_raw()
        guest.read_code()
        guest.read_image()
    except ArtifactError:
        return False
    return True


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if len(data) > bytes_max:
        raise _damaged(path, f"it has more than {bytes_max} bytes")
    return data


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path} of this installation is damaged: {why}", hint=_HINT)
