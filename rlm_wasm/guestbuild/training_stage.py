"""The stage that trains CPython: the counting build runs the training programs, and leaves a profile.

The guest's own modules are not among its inputs: changing them must not compile CPython again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.assembly import BLOB_FILE, RAW_FILE, TABLE_FILE, freeze_with_stdlib, link_module
from rlm_wasm.guestbuild.build_context import BuildContext, Needs
from rlm_wasm.guestbuild.build_host import clean_env
from rlm_wasm.guestbuild.compilation import PROFILE_FILE
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.trained import Trained

# Counted in any training that ran: the loop that interprets bytecode.
_WITNESS: Final = "_PyEval_EvalFrameDefault"
_MAXIMUM: Final = re.compile(r"^Maximum function count: ([1-9]\d*)$", re.MULTILINE)
_SHOWN: Final = "Functions shown: 1\n"


def make_profile(recipe: Recipe, context: BuildContext, out: Path, needs: Needs) -> None:
    work = out / "work"
    modules = {name: text for name, text in recipe.training.items() if name.endswith(".py")}
    freeze_with_stdlib(recipe, context, work, needs, "training", modules)
    files = {name: text for name, text in recipe.training.items() if not name.endswith(".py")}
    files |= recipe.training_shim
    for name in (BLOB_FILE, TABLE_FILE):
        files[name] = (work / name).read_bytes()
    link_module(recipe, context, work, needs, needs["instrumented"], files, "training")
    raw_profile = work / "training.profraw"
    raw_profile.write_bytes(context.train(work / RAW_FILE))
    tool, profile = str(needs["toolchain"] / "profdata"), out / PROFILE_FILE
    _merge(context, tool, raw_profile, profile)
    shutil.rmtree(work)
    check_profile(tool, profile)


def take_profile(trained: Trained, context: BuildContext, out: Path, needs: Needs) -> None:
    """The profile of what an earlier training left as text: the very same bytes, or an error."""
    counts, profile = out / "counts.txt", out / PROFILE_FILE
    counts.write_text(trained.counts, encoding="utf-8")
    tool = str(needs["toolchain"] / "profdata")
    _merge(context, tool, counts, profile)
    counts.unlink()
    trained.check_profile(profile)
    check_profile(tool, profile)


def counts_text(profile: Path, toolchain: Path) -> str:
    """Return the compiler's text of `profile`.

    Raises:
        GuestBuildError: it cannot be read.
    """
    done = subprocess.run(
        [str(toolchain / "profdata"), "merge", "--text", "-o", "-", str(profile)],
        env=clean_env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise GuestBuildError(f"the profile cannot be read: {done.stderr.strip()[:500]}")
    return done.stdout


def _merge(context: BuildContext, tool: str, counted: Path, profile: Path) -> None:
    context.run(
        [tool, "merge", "--num-threads=1", "-o", str(profile), str(counted)],
        what="merging the profile", cwd=profile.parent, env=clean_env(), log=context.open_log("profile"),
    )  # fmt: skip


def check_profile(tool: str, profile: Path) -> None:
    """Raise GuestBuildError unless `profile` says how often the interpreter's loop was entered."""
    done = subprocess.run(
        [tool, "show", f"--function={_WITNESS}", str(profile)],
        env=clean_env(), capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0 or _SHOWN not in done.stdout or not _MAXIMUM.search(done.stdout):
        raise GuestBuildError(f"the training counted nothing: {(done.stderr or done.stdout).strip()[:500]}")
