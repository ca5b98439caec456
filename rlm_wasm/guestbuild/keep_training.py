"""Trains CPython, and gives what that left for the guest's sources, where builds take it from.

For developers: after a change of anything that the training is made of, and to prove what is kept.
"""

from __future__ import annotations

from pathlib import Path

from rlm_wasm.guestbuild.build import usable_cache
from rlm_wasm.guestbuild.build_context import BuildContext, Train
from rlm_wasm.guestbuild.compilation import CONFIG_CACHE, PROFILE_FILE
from rlm_wasm.guestbuild.progress import BuildProgress
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.select_recipe import choose
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import StageCache
from rlm_wasm.guestbuild.stages import plan_training
from rlm_wasm.guestbuild.storage import storing
from rlm_wasm.guestbuild.trained import trained_files
from rlm_wasm.guestbuild.training_stage import counts_text


def train_again(
    recipe: Recipe,
    train: Train,
    *,
    cache: Path,
    jobs: int,
    progress: BuildProgress,
    sources: Path | None = None,
) -> dict[str, str]:
    """Train CPython, though what that leaves is kept; return the texts to keep, by their file's name.

    Raises:
        GuestBuildError: something could not be fetched, compiled or run.
    """
    cache = usable_cache(cache)
    store = SourceStore(cache / "downloads", local=sources)
    context = BuildContext(store, cache / "logs", jobs, progress, train)
    stages = StageCache(cache / "build", progress)
    with stages.locked():
        # It may be one that was taken of what is kept.
        stages.discard(plan_training(recipe, context))
        _, profile = choose([recipe], context, stages, plan=plan_training)
        made = stages.ensure(profile, context.commands.end_all) / PROFILE_FILE
        with storing("what the training left", cache):
            needs = {need.name: stages.ensure(need) for need in profile.needs}
            config = (needs["instrumented"] / CONFIG_CACHE).read_text(encoding="utf-8")
            return trained_files(
                profile.key, made.read_bytes(), counts_text(made, needs["toolchain"]), config
            )
