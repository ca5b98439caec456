"""An input for a guest: a name and a str or bytes, checked before anything of it goes near the guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.protocol.text_layout import Encoding, LaidOut, encoding_of
from rlm_wasm.values import JsonText

NAME_BYTES_MAX: Final = 256
# Before the name, for the guest: what comes is the text of a value. No name has a colon.
_JSON_MARK: Final = b"json:"


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
    def of(cls, name: object, value: object, *, size_max: int) -> Input:
        """Check a name and a value.

        Raises:
            UsageError: the name is no identifier, or the value no str or bytes, or larger than `size_max`.
        """
        if not isinstance(name, str):
            raise UsageError(f"a variable name is a str, not a {type(name).__name__}")
        key = name.encode("utf-8", "replace")
        if not name.isidentifier() or len(key) > NAME_BYTES_MAX:
            raise UsageError(f"{name!a} is not a variable name of at most {NAME_BYTES_MAX} bytes")
        if isinstance(value, LaidOut):
            made = cls(name, _JSON_MARK + key if value.is_json else key, value, value.encoding, value.is_json)
            return cls._checked(made, size_max)
        if not isinstance(value, str | bytes):
            raise UsageError(f"{name} is a {type(value).__name__}; give a str or bytes")
        if is_json := isinstance(value, JsonText):
            key = _JSON_MARK + key
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
