"""`ClientKeys`: the bearer keys of MCP clients over HTTP, and the client that each belongs to.

A line for each: a key, or a name and a key. The name is the client's as a tenant of the policy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, Self

from rlm_wasm.errors import UsageError

_KEY_CHARS_MIN: Final = 16
_KEY: Final = re.compile(r"[\x21-\x7e]{1,512}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEYS_MAX: Final = 1_000
_SCHEME: Final = b"bearer "
# What is hashed of a header: no key is longer.
_HEADER_BYTES_MAX: Final = 1_024


class ClientKeys:
    """Keys by their digests: none of them is kept as it is."""

    def __init__(self, clients: dict[bytes, str]) -> None:
        self._clients = clients

    def __len__(self) -> int:
        return len(self._clients)

    @classmethod
    def of(cls, text: str, origin: str) -> Self:
        """Read keys. Raises UsageError, which shows none of them."""
        clients: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            key, digest = words[-1], _digest(words[-1].encode("utf-8", "surrogateescape"))
            name = words[0] if len(words) > 1 else f"key-{digest.hex()[:12]}"
            if len(words) > 2 or not _KEY.fullmatch(key) or not _NAME.fullmatch(name):
                raise UsageError(
                    f"{origin}, line {number} is no key",
                    hint="a line is a key, or a name and a key",
                )
            if len(key) < _KEY_CHARS_MIN:
                raise UsageError(
                    f"{origin}, line {number}: a key has at least {_KEY_CHARS_MIN} characters",
                    hint="openssl rand -hex 32",
                )
            if digest in clients or len(clients) >= _KEYS_MAX:
                raise UsageError(f"{origin}, line {number}: a key that is there twice, or too many keys")
            clients[digest] = name
        if not clients:
            raise UsageError(f"{origin} has no key", hint="openssl rand -hex 32")
        return cls(clients)

    def client_of(self, authorization: bytes) -> str | None:
        """Return whose key an Authorization header has, in a time that says nothing of the keys."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME or len(authorization) > _HEADER_BYTES_MAX:
            return None
        given = _digest(authorization[len(_SCHEME) :].strip())
        found = None
        for digest, client in self._clients.items():
            if hmac.compare_digest(digest, given):
                found = client
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
