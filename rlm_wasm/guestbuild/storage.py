"""One clear error for a full disk and its relatives."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError

DISK_FULL_HINT: Final = (
    "a first build needs about 1 GB: free some space, or set RLM_WASM_CACHE to a folder on another disk"
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def storing(what: str, folder: Path) -> Iterator[None]:
    """Run a block that writes `what` below `folder`; its OSErrors become GuestBuildError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise GuestBuildError(
                f"the disk is full: could not write {what} below {folder}", hint=DISK_FULL_HINT
            ) from error
        raise GuestBuildError(f"could not write {what} below {folder}: {error}") from error
