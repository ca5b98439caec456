"""The names of all guests that a folder of sources may make; and a process that says them.

Where guests run nothing of the build is loaded: who wants the names there asks such a process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import recipes


def guest_names(sources: Path) -> frozenset[str]:
    """Return the names of all guests that the sources may make; none where no build is possible here.

    Raises:
        ArtifactError: the sources are incomplete.
    """
    manifest = load_manifest(sources)
    try:
        return frozenset(
            recipe_hash(recipe) for pin in manifest.pythons for recipe in recipes(manifest, pin.series)
        )
    except GuestBuildError:  # no toolchain for this kind of machine: the guest came from elsewhere
        return frozenset()


def main(sources: str) -> None:
    """Print the names, or what is wrong with the sources, as one JSON document."""
    try:
        json.dump({"names": sorted(guest_names(Path(sources)))}, sys.stdout)
    except ArtifactError as error:
        json.dump({"error": error.message, "hint": error.hint}, sys.stdout)
