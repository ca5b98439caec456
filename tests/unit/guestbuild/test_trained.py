"""What a training left is taken where it is of the same ingredients, and is what the training left."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.cli import guest as guest_command
from rlm_wasm.cli.main import invoke
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.build_host import write_script
from rlm_wasm.guestbuild.counts_text import pack_counts
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import Stage
from rlm_wasm.guestbuild.stages import TRAINING, plan_stages, plan_training
from rlm_wasm.guestbuild.trained import (
    TRAINED_FOLDER,
    Trained,
    keep_files,
    kept_files,
    load_trained,
    trained_files,
)
from rlm_wasm.guestbuild.training_stage import counts_text, take_profile
from tests.unit.guestbuild.support import folder_with_package, guest_folder

COUNTS = ":ir\na.c;f\n1\n3\n0\n0\n7\n\n"
SHOWN = "Functions shown: 1\nMaximum function count: 7\n"


def first(folder: Path, *packages: str) -> Recipe:
    return next(recipes(load_manifest(folder), "3.14", packages))


def context(folder: Path) -> BuildContext:
    return BuildContext(SourceStore(folder), folder / "logs", 1, Silent())


def stages(last: Stage) -> dict[str, Stage]:
    return {last.name: last} | {name: each for need in last.needs for name, each in stages(need).items()}


def keep(folder: Path, key: str, profile: bytes = b"profile", config: str = "ac_cv_x=1\n") -> Trained:
    keep_files(folder, trained_files(key, profile, COUNTS, config))
    kept = load_trained(folder)
    assert kept is not None
    return kept


def toolchain(folder: Path) -> Path:
    """A `profdata` that makes of a text the text, where the compiler's makes a profile."""
    folder.mkdir()
    write_script(
        folder / "profdata",
        f"if [ $1 = show ]; then printf '{SHOWN}'.; exit; fi\n"
        "while [ $1 != -o ]; do shift; done\n"
        'if [ "$2" = - ]; then cat "$3"; else cat "$3" > "$2"; fi',
    )
    return folder


def test_the_training_that_is_kept_is_of_these_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red after a change of anything that CPython is trained with: `rlm-wasm guest train`."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    kept = load_trained(guest_dir())
    assert kept is not None
    recipe = first(guest_dir())
    assert kept.key == plan_training(recipe, context(Path())).key
    assert TRAINING not in stages(plan_stages(recipe, context(Path())))
    assert kept.config.startswith("ac_cv_")
    counted = kept.counts
    assert "\n_PyEval_EvalFrameDefault\n" in counted
    assert pack_counts(counted) == kept_files(guest_dir())["counts.txt"]


def test_with_it_nothing_is_counted_again_and_the_guest_has_the_same_name(tmp_path: Path) -> None:
    folder = guest_folder(tmp_path)
    before, name = stages(plan_stages(first(folder), context(folder))), recipe_hash(first(folder))
    assert TRAINING in before
    keep(folder, before["profile"].key)
    after = stages(plan_stages(first(folder), context(folder)))
    assert recipe_hash(first(folder)) == name
    assert after.keys() == before.keys() - {TRAINING}
    assert {each: after[each].key for each in after} == {each: before[each].key for each in after}
    assert [need.name for need in after["profile"].needs] == ["toolchain"]
    assert TRAINING in stages(plan_training(first(folder), context(folder)))


def test_a_training_of_other_ingredients_is_not_taken(tmp_path: Path) -> None:
    folder = guest_folder(tmp_path)
    keep(folder, plan_training(first(folder), context(folder)).key)
    (folder / "training" / "rlm_training.py").write_text("def train(): return 1\n")
    assert TRAINING in stages(plan_stages(first(folder), context(folder)))


def test_a_variant_takes_it_too(tmp_path: Path) -> None:
    folder = folder_with_package(tmp_path)
    before = stages(plan_stages(first(folder, "arrays"), context(folder)))
    keep(folder, before["profile"].key)
    after = stages(plan_stages(first(folder, "arrays"), context(folder)))
    assert after.keys() == before.keys() - {TRAINING}
    assert after["link"].key == before["link"].key


def test_the_profile_that_is_made_of_the_text_is_the_one_that_the_training_made(tmp_path: Path) -> None:
    needs = {"toolchain": toolchain(tmp_path / "toolchain")}
    kept = keep(tmp_path, "key", profile=COUNTS.encode())
    (tmp_path / "out").mkdir()
    take_profile(kept, context(tmp_path), tmp_path / "out", needs)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["guest.profdata"]
    assert counts_text(tmp_path / "out" / "guest.profdata", needs["toolchain"]) == COUNTS


def test_a_changed_count_is_refused(tmp_path: Path) -> None:
    needs = {"toolchain": toolchain(tmp_path / "toolchain")}
    kept = keep(tmp_path, "key", profile=COUNTS.encode())
    path = tmp_path / TRAINED_FOLDER / "counts.txt"
    path.write_text(path.read_text().replace("7", "8"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match=r"counts\.txt is not what a training left"):
        take_profile(kept, context(tmp_path), tmp_path / "out", needs)


def test_a_changed_answer_of_configure_is_refused(tmp_path: Path) -> None:
    kept = keep(tmp_path, "key")
    (tmp_path / TRAINED_FOLDER / "config.txt").write_text("ac_cv_x=2\n")
    with pytest.raises(ArtifactError, match=r"config\.txt is not what a training left") as refused:
        _ = kept.config
    assert refused.value.hint == "write it anew: rlm-wasm guest train"


@pytest.mark.parametrize(
    ("text", "problem"), [("key = 3", "must be a str"), ("other = 1", "unknown key"), ("=", "Invalid")]
)
def test_what_is_kept_in_another_form_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    keep(tmp_path, "key")
    (tmp_path / TRAINED_FOLDER / "trained.toml").write_text(text)
    with pytest.raises(ArtifactError, match=problem):
        load_trained(tmp_path)


def test_where_nothing_is_kept_nothing_is_taken(tmp_path: Path) -> None:
    assert load_trained(tmp_path) is None


def test_writing_that_was_cut_off_leaves_nothing_that_is_taken(tmp_path: Path) -> None:
    keep(tmp_path, "old")
    (tmp_path / TRAINED_FOLDER / "config.txt").unlink()
    (tmp_path / TRAINED_FOLDER / "config.txt").mkdir()
    with pytest.raises(Exception, match="could not write what the training left"):
        keep(tmp_path, "new")
    assert load_trained(tmp_path) is None


@pytest.mark.usefixtures("own_folders")
def test_the_command_writes_it_and_says_whether_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the training itself, which takes minutes; `rlm-wasm guest train --check` runs that."""
    folder = guest_folder(tmp_path)
    files = trained_files("key", b"profile", COUNTS, "ac_cv_x=1\n")
    monkeypatch.setattr(guest_command, "load_manifest", lambda: load_manifest(folder))
    monkeypatch.setattr(guest_command, "train_again", lambda *_, **__: files)
    with pytest.raises(SystemExit) as differs:
        invoke(["guest", "train", "--check"])
    assert differs.value.code == 1
    assert "something else than" in capsys.readouterr().out
    assert load_trained(folder) is None
    assert invoke(["guest", "train"]) == 0
    assert "wrote config.txt, counts.txt, trained.toml into" in capsys.readouterr().out
    assert kept_files(folder) == files
    assert invoke(["guest", "train", "--check"]) == 0
    assert "the training left what" in capsys.readouterr().out
    kept = load_trained(folder)
    assert kept is not None
    assert kept.profile_sha256 == hashlib.sha256(b"profile").hexdigest()
