"""The key `extends`: which policy a file changes. Light, for whoever only glances at a policy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from rlm_wasm.policy.builtin import builtin_names, builtin_path

EXTENDS: Final = "extends"
# A company's policy, a team's, a project's and a person's, over a built-in one, and room.
EXTENDS_DEPTH_MAX: Final = 8
_GLANCE_CHARS_MAX: Final = 64 * 1024


def extended_path(name: str, path: Path) -> Path:
    """Return what file the policy at `path` means by `name`: a built-in policy's, or one beside it."""
    # The operator wrote it, as they wrote the path of the file itself.
    return builtin_path(name) if name in builtin_names() else path.parent / name


def sandbox_at_a_glance(name_or_path: str, key: str) -> object:
    """Return what a policy will say for a key of [sandbox], unchecked; None if it says nothing.

    Nothing is decided by it but what begins early. Whatever exception comes means that it is not known.
    """
    path = extended_path(name_or_path, Path("_"))
    for _ in range(EXTENDS_DEPTH_MAX + 1):
        with path.open(encoding="utf-8-sig") as file:
            data = tomllib.loads(file.read(_GLANCE_CHARS_MAX))
        if (found := data.get("sandbox", {}).get(key)) is not None or EXTENDS not in data:
            return found
        path = extended_path(data[EXTENDS], path)
    return None
