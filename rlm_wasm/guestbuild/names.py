"""The names of all guests that a folder of sources may make; and a process that says them.

Where guests run nothing of the build is loaded: who wants the names there asks such a process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rlm_wasm.errors import ArtifactError, GuestBuildError, UsageError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import recipes


def guest_names(sources: Path, packages: Sequence[str] = ()) -> frozenset[str]:
    """Return the names of all guests that the sources may make; none where no build is possible here.

    With `packages` those of the variant that has them, and without, those of the guest that has none.

    Raises:
        ArtifactError: the sources are incomplete. UsageError: a package is not pinned.
    """
    manifest = load_manifest(sources)
    try:
        return frozenset(
            recipe_hash(recipe)
            for pin in manifest.pythons
            for recipe in recipes(manifest, pin.series, packages)
        )
    except GuestBuildError:  # no toolchain for this kind of machine: the guest came from elsewhere
        return frozenset()


def main(sources: str, *packages: str) -> None:
    """Print the names, or what is wrong with the sources, as one JSON document."""
    try:
        json.dump({"names": sorted(guest_names(Path(sources), packages))}, sys.stdout)
    except (ArtifactError, UsageError) as error:
        json.dump({"error": error.message, "hint": error.hint}, sys.stdout)
