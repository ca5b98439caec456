"""An input for a guest: a name and a str or bytes, checked before anything of it goes near the guest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

from rlm_wasm.errors import UsageError
from rlm_wasm.protocol.text_layout import Encoding, LaidOut, encoding_of
from rlm_wasm.values import JsonText

NAME_BYTES_MAX: Final = 256
# As a file system has it.
FILE_NAME_BYTES_MAX: Final = 255
# Before the name, for the guest: what comes is the text of a value. No name has a colon.
_JSON_MARK: Final = b"json:"
# Before a document that says which file the input is as well.
_FILE_MARK: Final = b"input:"


@dataclass(frozen=True, slots=True)
class HeldInput:
    """What of an input lies with the host, under a number: the file of this name in /inputs.

    `lazy` is "text" or "bytes" where the variable is no copy of it either, and empty where it is one. Of a
    `folder` the files are the texts of the dict that comes with it, in its order, by the numbers from
    `number` on.
    """

    number: int
    file: bytes
    lazy: Literal["", "text", "bytes"] = ""
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """What is bound to `name` in the guest, and the layout its characters take there."""

    name: str
    key: bytes
    value: str | bytes | LaidOut
    encoding: Encoding
    # Whether it is the text of a value, which the guest is to bind in its place.
    is_json: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it becomes a str in the guest, else bytes."""
        return self.value.is_text if isinstance(self.value, LaidOut) else isinstance(self.value, str)

    @property
    def size(self) -> int:
        """How many bytes its contents take in the guest."""
        return len(self.value) * self.encoding.bytes_per_unit

    @classmethod
    def of(cls, name: object, value: object, *, size_max: int, held: HeldInput | None = None) -> Input:
        """Check a name and a value, and what of it is a file.

        Raises:
            UsageError: the name is no identifier, or the value no str or bytes, or larger than `size_max`.
        """
        if not isinstance(name, str):
            raise UsageError(f"a variable name is a str, not a {type(name).__name__}")
        key = name.encode("utf-8", "replace")
        if not name.isidentifier() or len(key) > NAME_BYTES_MAX:
            raise UsageError(f"{name!a} is not a variable name of at most {NAME_BYTES_MAX} bytes")
        if isinstance(value, LaidOut):
            key = _key(key, value.is_json, held)
            return cls._checked(cls(name, key, value, value.encoding, value.is_json), size_max)
        if not isinstance(value, str | bytes):
            raise UsageError(f"{name} is a {type(value).__name__}; give a str or bytes")
        is_json = isinstance(value, JsonText)
        key = _key(key, is_json, held)
        if type(value) not in (str, bytes):
            # A subclass may say another length than it has, and be copied from beyond its end.
            value = str.__str__(value) if isinstance(value, str) else bytes(memoryview(value))
        return cls._checked(cls(name, key, value, encoding_of(value), is_json), size_max)

    @staticmethod
    def _checked(made: Input, size_max: int) -> Input:
        if made.size > size_max:
            raise UsageError(
                f"{made.name} takes {made.size} bytes in the guest; sandbox.context_bytes_max is {size_max}"
            )
        return made


def _key(name: bytes, is_json: bool, held: HeldInput | None) -> bytes:
    """Return what the guest is told of an input beside its contents."""
    if held is None:
        return _JSON_MARK + name if is_json else name
    about = {
        "name": name.decode(),
        "json": is_json,
        "number": held.number,
        "file": held.file.hex(),
        "lazy": held.lazy,
        "folder": held.folder,
    }
    return _FILE_MARK + json.dumps(about).encode()
