"""Reading and writing the files that must be what they were: one open, one read, atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from rlm_wasm.errors import ArtifactError


def read_owned(path: Path, *, bytes_max: int, or_roots: bool = False) -> bytes:
    """Read a regular file that this user owns and no other may write, whole, through one descriptor.

    `or_roots`: or that root owns, who may write it in any case.

    Symbolic links are not followed. FileNotFoundError passes through; every other failure is an
    ArtifactError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtifactError(f"cannot open {path}: {error.strerror}") from error
    try:
        facts = os.fstat(fd)
        owners = (os.geteuid(), 0) if or_roots else (os.geteuid(),)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in owners:
            raise ArtifactError(f"{path} is not a regular file of this user{' or of root' * or_roots}")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ArtifactError(f"{path} can be written by another user")
        if facts.st_size > bytes_max:
            raise ArtifactError(f"{path} has {facts.st_size} bytes; at most {bytes_max} are allowed")
        parts = []
        left = facts.st_size + 1  # one more, to see the end
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
        if left == 0:
            raise ArtifactError(f"{path} grew while it was read")
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(fd)


def write_private(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of mode 0600 beside its final name, then rename it into place.

    Raises:
        ArtifactError: the file could not be written (a full disk, say); nothing is left behind.
    """
    _write(path, parts, 0o600)


def stamp_use(path: Path) -> None:
    """Give a file of a cache this moment's time, so that it is not taken for one that nobody uses."""
    with contextlib.suppress(OSError):  # a cache that cannot be written is pruned by nobody
        os.utime(path, follow_symlinks=False)


def write_readable(path: Path, parts: Iterable[bytes]) -> None:
    """Like `write_private`, of mode 0644: whoever may come to it may read it."""
    _write(path, parts, 0o644)


def _write(path: Path, parts: Iterable[bytes], mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(fd, mode)  # whatever the umask
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        hint = (
            "free some space, or set RLM_WASM_CACHE to another disk" if error.errno == errno.ENOSPC else None
        )
        raise ArtifactError(f"cannot write {path}: {error.strerror}", hint=hint) from error
    finally:
        temporary.unlink(missing_ok=True)
