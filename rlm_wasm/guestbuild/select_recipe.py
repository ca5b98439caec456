"""The choice of a recipe: the first whose files are at hand, else the first whose files can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.progress import BuildProgress
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.sources import SourceUnavailable
from rlm_wasm.guestbuild.stage_cache import Stage, StageCache
from rlm_wasm.guestbuild.stages import plan_stages

_DOWNLOAD_SECONDS: Final = 10

Group = tuple[PinnedFile, ...]
Plan = Callable[[Recipe, BuildContext], Stage]


def choose(
    candidates: Sequence[Recipe],
    context: BuildContext,
    stages: StageCache,
    extra: Sequence[tuple[str, int]] = (),
    plan: Plan = plan_stages,
) -> tuple[Recipe, Stage]:
    """Return a recipe and the stage that `plan` gives; all files that its missing stages need were fetched.

    A recipe that needs no download wins over an earlier one that does: a build that once fell back
    to a later pin stays with it. The progress plan is set for what then has to run, and `extra`.

    Raises:
        GuestBuildError: this machine lacks a tool; found out before anything is downloaded.
        SourceUnavailable: no recipe's files can all be had; the message has the reasons of each.
    """
    planned = [(recipe, plan(recipe, context)) for recipe in candidates]
    for recipe, last in planned:
        missing = stages.missing(last)
        if not _lacking(missing, context):
            context.progress.plan([*_shares(missing), *extra])
            return recipe, last
    problems: dict[str, SourceUnavailable] = {}
    for stage in stages.missing(planned[0][1]):
        if stage.check is not None:
            stage.check()
    for recipe, last in planned:
        missing = stages.missing(last)
        context.progress.plan([("download", _DOWNLOAD_SECONDS), *_shares(missing), *extra])
        try:
            _fetch(_lacking(missing, context), recipe.text, context)
        except SourceUnavailable as error:
            problems[error.message] = error
            context.progress.note(f"not all files of {recipe.text} can be had")
            continue
        return recipe, last
    raise SourceUnavailable("\n".join(problems), hint=next(iter(problems.values())).hint)


def _lacking(missing: Sequence[Stage], context: BuildContext) -> list[Group]:
    groups = [group for stage in missing for group in stage.files]
    return [group for group in groups if not any(context.store.on_hand(file) for file in group)]


def _shares(missing: Sequence[Stage]) -> list[tuple[str, int]]:
    return [(stage.name, stage.seconds) for stage in missing]


def _fetch(groups: Sequence[Group], text: str, context: BuildContext) -> None:
    total = sum(group[0].size_bytes for group in groups)
    context.progress.begin("download", f"fetching {text} ({total / 1e6:.0f} MB)")
    done = 0
    for group in groups:
        context.store.fetch_any(group, _reporter(context.progress, done, total))
        done += group[0].size_bytes
    context.progress.end("download")


def _reporter(progress: BuildProgress, done: int, total: int) -> Callable[[int], None]:
    return lambda count: progress.advance("download", min(1.0, (done + count) / total))
