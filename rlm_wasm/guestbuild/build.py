"""The guest build: choose a recipe, make its stages, prepare the image, publish.

Everything lies below one cache folder: `downloads/`, `build/` (stages), `logs/`, `guests/`. An
interrupted build leaves only complete stages and resumable downloads behind.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rlm_wasm.artifacts.guest import FACTS_FILE, load_guest
from rlm_wasm.artifacts.image import IMAGES_FOLDER
from rlm_wasm.artifacts.publishing import publish
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.assembly import RAW_FILE
from rlm_wasm.guestbuild.build_context import BuildContext, Train
from rlm_wasm.guestbuild.progress import BuildProgress, Silent
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.select_recipe import choose
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import StageCache
from rlm_wasm.guestbuild.stages import TRAINING, plan_stages
from rlm_wasm.guestbuild.storage import storing

_PREPARE_SECONDS: Final = 10
# Other guests that are kept: of older versions, and of checkouts that share the cache. 60 MB each.
_KEEP_GUESTS: Final = 7
_TRAINED_HERE: Final = (
    "guest/trained is of other ingredients, so CPython is trained here, which doubles the time "
    "(`rlm-wasm guest train` brings it up to date)"
)
_PATH: Final = re.compile(r"[\w/.+@~-]+")


class Prepare(Protocol):
    """Turns the linked module into the files of a guest folder."""

    def __call__(
        self, raw: Path, folder: Path, /, *, recipe: str, cpython: str, packages: tuple[str, ...]
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gave: the guest's folder, the recipe that made it, and whether anything had to run."""

    folder: Path
    recipe: Recipe
    recipe_hash: str
    reused: bool


def recipe_hash(recipe: Recipe) -> str:
    """Return the name of the guest that `recipe` makes."""
    # Keys do not depend on where a build happens: no store is ever touched here.
    return plan_stages(recipe, BuildContext(SourceStore(Path()), Path(), 1, Silent())).key


def build_guest(
    candidates: Sequence[Recipe],
    prepare: Prepare,
    train: Train,
    *,
    cache: Path,
    jobs: int,
    progress: BuildProgress,
    sources: Path | None = None,
    force: bool = False,
) -> Built:
    """Build the first of `candidates` that can be had and publish it below `cache`/guests.

    When nothing has changed nothing runs, even if all caches are gone. With `force` the linked
    module and the guest are made again from what is cached.

    Raises:
        GuestBuildError: something could not be fetched, compiled or written; what was finished stays.
    """
    cache = usable_cache(cache)
    store = SourceStore(cache / "downloads", local=sources)
    context = BuildContext(store, cache / "logs", jobs, progress, train)
    stages = StageCache(cache / "build", progress)
    with stages.locked():
        for recipe in () if force else candidates:
            folder = cache / "guests" / recipe_hash(recipe)
            if _is_whole(folder):
                return Built(folder, recipe, folder.name, reused=True)
        if force:
            for recipe in candidates:
                stages.discard(plan_stages(recipe, context))
        recipe, last = choose(candidates, context, stages, extra=[("image", _PREPARE_SECONDS)])
        if any(stage.name == TRAINING for stage in stages.missing(last)):
            progress.note(_TRAINED_HERE)
        folder = cache / "guests" / last.key
        raw = stages.ensure(last, context.commands.end_all) / RAW_FILE
        progress.begin("image", "starting the interpreter once and taking its memory")
        packages = tuple(pin.name for pin in recipe.packages)

        def fill(making: Path) -> None:
            prepare(raw, making, recipe=last.key, cpython=recipe.cpython.version, packages=packages)

        with storing("the guest", folder.parent):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Those that are of another guest's memory are refused when they are looked for.
            publish(folder, fill, keep=(IMAGES_FOLDER,))
        _prune(folder)
        progress.end("image")
        return Built(folder, recipe, last.key, reused=False)


def usable_cache(cache: Path) -> Path:
    """Return `cache` as an absolute path, if makefiles and search paths can hold it."""
    cache = cache.absolute()
    if not _PATH.fullmatch(str(cache)):
        raise GuestBuildError(
            f"CPython cannot be built below {str(cache)!r}: its makefiles need a path without spaces, "
            "colons and other signs",
            hint="set RLM_WASM_CACHE to a folder with a plain name",
        )
    return cache


def _is_whole(folder: Path) -> bool:
    """Whether a guest lies in `folder` and is what this machine wrote; if so it becomes the newest."""
    try:
        guest = load_guest(folder)
        guest.read_raw()
        guest.read_code()
        guest.read_image()
        os.utime(folder / FACTS_FILE)
    except (ArtifactError, OSError):
        return False
    return True


def _prune(folder: Path) -> None:
    """Drop all but the newest guests beside `folder`, which stays."""
    others = [path for path in folder.parent.glob(f"*/{FACTS_FILE}") if path.parent != folder]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for facts in others[_KEEP_GUESTS:]:
        shutil.rmtree(facts.parent, ignore_errors=True)
