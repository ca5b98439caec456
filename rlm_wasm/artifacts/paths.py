"""The folders outside the checkout in which this package keeps files, and the one way it makes them.

`RLM_WASM_CACHE` and `RLM_WASM_STATE` override the user's cache and state folders. Everything in
the cache can be rebuilt; the state holds this machine's key.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import platformdirs

from rlm_wasm.errors import ArtifactError

APP: Final = "rlm-wasm"


def cache_dir() -> Path:
    """Return the cache folder, made private (0700) if it is new."""
    override = os.environ.get("RLM_WASM_CACHE")
    return private_dir(Path(override) if override else platformdirs.user_cache_path(APP))


def state_dir() -> Path:
    """Return the folder that holds this machine's key, private (0700)."""
    override = os.environ.get("RLM_WASM_STATE")
    return private_dir(Path(override) if override else platformdirs.user_state_path(APP))


def guests_dir() -> Path:
    """Return the folder of built guests, one sub-folder for each recipe hash."""
    return private_dir(cache_dir() / "guests")


def compiled_dir() -> Path:
    """Return the folder of compiled modules."""
    return private_dir(cache_dir() / "compiled")


def private_dir(path: Path) -> Path:
    """Make `path` with mode 0700 if missing; refuse one that another user owns or may write.

    Raises:
        ArtifactError: the folder cannot be made, or is not ours alone to write.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except OSError as error:
        raise ArtifactError(
            f"cannot use the folder {path}: {error.strerror}",
            hint="set RLM_WASM_CACHE (or RLM_WASM_STATE) to a folder you can write",
        ) from error
    if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ArtifactError(
            f"the folder {path} can be written by another user",
            hint=f"chown it to yourself and run: chmod 700 {path}",
        )
    return path
