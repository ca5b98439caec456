"""The part of a wheel that is built and not written: the guest of these sources, packed, and its licences.

`python -m rlm_wasm.guestbuild.shipping FOLDER` fills a folder; `hatch_build.py` puts it into the wheel.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts.guest import load_guest
from rlm_wasm.artifacts.paths import cache_dir, guests_dir
from rlm_wasm.artifacts.shipped import LEVEL, pack
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.licences import licence_texts
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.verify import verify_guest

LICENCES_FOLDER: Final = "licences"


def ship(folder: Path, level: int = LEVEL) -> None:
    """Fill `folder`, anew, with what a wheel of these sources carries.

    Raises:
        ArtifactError: no guest is built of these sources, or it is not what its facts say.
        GuestBuildError: an ingredient's licence cannot be had.
    """
    recipe = _built_recipe()
    guest = load_guest(guests_dir() / recipe_hash(recipe))
    verify_guest(guest, recipe.manifest.boundary)
    shutil.rmtree(folder, ignore_errors=True)
    pack(guest, folder, level)
    for name, text in licence_texts(recipe, SourceStore(cache_dir() / "downloads")):
        path = folder / LICENCES_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def _built_recipe() -> Recipe:
    """Return the preferred recipe of these sources whose guest is built."""
    for recipe in recipes(load_manifest()):
        if (guests_dir() / recipe_hash(recipe)).is_dir():
            return recipe
    raise ArtifactError("no guest of these sources is built", hint="build it: rlm-wasm guest build")


def main() -> None:
    """Fill the folder that is named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--level", type=int, default=LEVEL, help="of the packing; a release has the default")
    given = parser.parse_args()
    ship(given.folder, given.level)


if __name__ == "__main__":
    main()
