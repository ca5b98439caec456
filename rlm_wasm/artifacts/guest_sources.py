"""The folder of the sources of this program's guest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rlm_wasm.errors import ArtifactError

MANIFEST_FILE: Final = "manifest.toml"


def guest_dir() -> Path:
    """Return the folder of guest sources: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "guest", package / "_guest"):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    raise ArtifactError(
        f"the guest's sources are missing (no guest/{MANIFEST_FILE} beside {package})",
        hint="install rlm-wasm again, or run from a complete checkout",
    )
