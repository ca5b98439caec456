"""A built guest on disk: the code module, the base image, and the facts that bind them.

    guest.json   what was built, from which recipe, the hash and size of each file; and its MAC
    raw.wasm     what the linker made (kept for `guest verify`)
    code.wasm    raw.wasm without its data
    base.img     linear memory after initialisation
    sources.txt  which sources it was last found to be made of (a note: see `installed`)

`guest.json` is trusted by its MAC (this machine's key), everything else by the hashes in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.files import read_owned, stamp_use, write_private
from rlm_wasm.artifacts.machine_key import mac, machine_key, same
from rlm_wasm.errors import ArtifactError
from rlm_wasm.protocol.guest_facts import GuestFacts

FORMAT: Final = 4
PAGE_BYTES: Final = 65_536
FACTS_FILE, MAC_FILE = "guest.json", "guest.json.mac"
RAW_FILE, CODE_FILE, IMAGE_FILE = "raw.wasm", "code.wasm", "base.img"
NOTE_FILE: Final = "sources.txt"
_FACTS_BYTES_MAX: Final = 1 << 20
_CODE_BYTES_MAX: Final = 256 << 20
_IMAGE_BYTES_MAX: Final = 1 << 30
_PURPOSE: Final = "guest-facts"
_PACKAGES: Final = "packages"
MAC_BYTES_MAX: Final = 64
_NOTE_BYTES_MAX: Final = 4096
BUILD_HINT: Final = "build it with: rlm-wasm guest build"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest whose facts are authenticated. The files are checked when they are read.

    With packages in it, its memory lies in a file of its own; `hint` says how that is made.
    """

    folder: Path
    facts: GuestFacts
    # What to do where a file of it is damaged.
    hint: str
    # What vouches for it: this machine's key, or that of the cache that users share.
    key: bytes
    shared: bool
    image_file: Path | None = None
    # Name and version of each package that came from a wheel.
    wheels: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """What binds a snapshot to it: the hashes of its code and of its image."""
        return self.facts.code_sha256, self.facts.image_sha256

    def read_code(self) -> bytes:
        """Return the code module, checked against its hash."""
        code = self._read(CODE_FILE, _CODE_BYTES_MAX)
        if hashlib.sha256(code).hexdigest() != self.facts.code_sha256:
            raise ArtifactError(f"{self.folder / CODE_FILE} does not match its hash", hint=self.hint)
        return code

    def read_image(self) -> bytes:
        """Return the image's bytes, checked against their MAC (faster than the hash, same promise)."""
        file = self.image_file or self.folder / IMAGE_FILE
        image = read_file(file, _IMAGE_BYTES_MAX, self.hint, shared=self.shared)
        if len(image) != self.facts.image_bytes or image_mac(image, self.key) != self.facts.image_mac:
            raise ArtifactError(f"{file} does not match its MAC", hint=self.hint)
        return image

    def read_raw(self) -> bytes:
        """Return the linker's output, checked against its hash."""
        raw = self._read(RAW_FILE, _CODE_BYTES_MAX)
        if hashlib.sha256(raw).hexdigest() != self.facts.raw_sha256:
            raise ArtifactError(f"{self.folder / RAW_FILE} does not match its hash", hint=self.hint)
        return raw

    def read_note(self) -> bytes:
        """Return its note, nothing where it has none that can be read."""
        return read_note(self.folder, shared=self.shared)

    def _read(self, name: str, bytes_max: int) -> bytes:
        return read_file(self.folder / name, bytes_max, self.hint, shared=self.shared)


def image_mac(image: bytes, key: bytes | None = None) -> str:
    """Return the MAC of a base image, in hexadecimal: under this machine's key, unless another is given."""
    return mac(machine_key() if key is None else key, "base-image", image).hex()


def save_facts(folder: Path, facts: GuestFacts) -> None:
    """Write `facts` and their MAC into `folder`."""
    for name, content in facts_files(facts, machine_key()).items():
        write_private(folder / name, [content])


def facts_files(facts: GuestFacts, key: bytes) -> dict[str, bytes]:
    """Return the files of `facts`, authenticated by `key`, by their names."""
    values = asdict(facts)
    if not facts.packages:
        del values[_PACKAGES]
    text = json.dumps(values, indent=1, sort_keys=True).encode()
    return {FACTS_FILE: text, MAC_FILE: mac(key, _PURPOSE, text)}


def load_guest(folder: Path, *, hint: str = BUILD_HINT, shared_key: bytes | None = None) -> Guest:
    """Return the guest in `folder` after checking the MAC of its facts; `hint` says what to do if not.

    `shared_key`: the folder is in the cache that users share, whose key that is.

    Raises:
        ArtifactError: there is no guest, or its facts are not what this machine wrote.
    """
    shared = shared_key is not None
    key = machine_key() if shared_key is None else shared_key
    text = read_file(folder / FACTS_FILE, _FACTS_BYTES_MAX, hint, shared=shared)
    found_mac = read_file(folder / MAC_FILE, MAC_BYTES_MAX, hint, shared=shared)
    if not same(found_mac, mac(key, _PURPOSE, text)):
        raise ArtifactError(f"{folder / FACTS_FILE} was not written by this machine", hint=hint)
    # The guest without packages says nothing of them.
    values = {_PACKAGES: []} | json.loads(text)
    if set(values) != {f.name for f in fields(GuestFacts)} or values["format"] != FORMAT:
        raise ArtifactError(f"{folder / FACTS_FILE} has another format", hint=hint)
    for name in ("imports", "exports", _PACKAGES):
        values[name] = tuple(values[name])
    facts = GuestFacts(**values)
    if facts.image_bytes % PAGE_BYTES or not 0 < facts.stack_pointer <= facts.image_bytes:
        raise ArtifactError(f"{folder / FACTS_FILE} describes an impossible image", hint=hint)
    if not shared:
        stamp_use(folder / MAC_FILE)  # the facts' own time says which guest is the newest
    return Guest(folder, facts, hint, key, shared)


def read_note(folder: Path, *, shared: bool = False) -> bytes:
    """Return the note in a guest's folder, nothing where there is none that can be read."""
    try:
        return read_owned(folder / NOTE_FILE, bytes_max=_NOTE_BYTES_MAX, or_roots=shared)
    except (ArtifactError, FileNotFoundError):
        return b""


def read_file(path: Path, bytes_max: int, hint: str, *, shared: bool) -> bytes:
    """Return a file of a guest, shared or this user's. Raises ArtifactError, also where it is missing."""
    try:
        return read_owned(path, bytes_max=bytes_max, or_roots=shared)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", hint=hint) from error
    except ArtifactError as error:
        raise ArtifactError(error.message, hint=hint) from error
