"""This machine's own key: what a compiled module or an image must be authenticated with.

It protects against a corrupt, foreign or swapped file, not against someone with this user's own
rights, who could read the key as well (threat_model/limitations.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.files import read_owned
from rlm_wasm.artifacts.paths import state_dir
from rlm_wasm.errors import ArtifactError

KEY_BYTES: Final = 32
MAC_BYTES: Final = 32


def machine_key() -> bytes:
    """Return the key, made on first use with mode 0600.

    Raises:
        ArtifactError: the file is readable by others, or has another size.
    """
    path = state_dir() / "machine.key"
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
        return _read(path)


def _make(path: Path) -> None:
    # Written whole under another name and linked into place: a process that starts at the same
    # moment sees either no key or all of it, and the first link wins.
    temporary = path.with_name(f".machine.key.{secrets.token_hex(6)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(new_key())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror}", hint="set RLM_WASM_STATE to a folder you can write"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def new_key() -> bytes:
    """Return a key that nobody has."""
    return secrets.token_bytes(KEY_BYTES)


def _read(path: Path) -> bytes:
    key = read_owned(path, bytes_max=KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise ArtifactError(f"{path} is not a key", hint=f"remove it: rm {path}; a new one is made")
    if path.stat().st_mode & 0o077:
        raise ArtifactError(f"{path} is readable by others", hint=f"chmod 600 {path}")
    return key


def mac(key: bytes, purpose: str, *parts: bytes | memoryview) -> bytes:
    """Return the keyed BLAKE2b of `parts`, each framed by its length; each `purpose` has its own key."""
    subkey = hashlib.blake2b(purpose.encode(), key=key, digest_size=KEY_BYTES).digest()
    digest = hashlib.blake2b(key=subkey, digest_size=MAC_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def same(left: bytes, right: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(left, right)
