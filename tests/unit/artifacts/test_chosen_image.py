"""The guest of an image: the variant that has its package is found, and no other is taken for it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts import image, installed
from rlm_wasm.artifacts.guest import load_guest, save_facts
from rlm_wasm.artifacts.installed import find_guest, newest_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import recipes
from tests.support.wat_guest import facts
from tests.unit.guestbuild.support import folder_with_package

pytestmark = [pytest.mark.threat("T-260"), pytest.mark.usefixtures("own_folders")]


def built(name: str, *packages: str, age: int = 0) -> Path:
    """Put a guest of that recipe where the build puts it; `age` says how old it is."""
    folder = guests_dir() / name
    folder.mkdir(mode=0o700)
    save_facts(folder, replace(facts(), format=artifact.FORMAT, recipe=name, packages=packages))
    os.utime(folder / artifact.FACTS_FILE, (1_000_000 - age, 1_000_000 - age))
    return folder


def named(sources: Path, *packages: str) -> str:
    return recipe_hash(next(recipes(load_manifest(sources), "3.14", packages)))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout" / "guest"
    folder.mkdir(parents=True)
    folder_with_package(folder)
    monkeypatch.setattr(installed, "guest_dir", lambda: folder)
    return folder


@pytest.fixture(autouse=True)
def arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the name of the test's package that of an image which is a guest of its own."""
    monkeypatch.setattr(installed, "VARIANTS", frozenset({"arrays"}))


def test_each_image_has_its_own_guest(sources: Path) -> None:
    base, arrays = built(named(sources)), built(named(sources, "arrays"), "arrays")
    for _ in range(2):  # by its name, then by its note
        assert find_guest().folder == base
        assert find_guest("arrays").folder == arrays
    assert newest_guest("arrays").folder == arrays


def test_an_image_that_is_not_built_is_never_the_guest_without_it(sources: Path) -> None:
    built(named(sources))
    for find in (find_guest, newest_guest):
        with pytest.raises(ArtifactError, match="the image arrays is not built") as missing:
            find("arrays")
        assert "rlm-wasm guest build --image arrays" in str(missing.value.hint)


def test_an_image_that_nobody_knows_is_told_with_what_there_is(sources: Path) -> None:
    built(named(sources))
    with pytest.raises(
        ArtifactError, match="there is no image matrices over the guest of this program, but base"
    ):
        find_guest("matrices")


def test_the_images_that_are_guests_of_their_own_are_those_that_the_guests_manifest_builds() -> None:
    assert {package.name for package in load_manifest().packages} == image.VARIANTS


def test_without_sources_the_newest_of_the_image_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ArtifactError("no sources")

    monkeypatch.setattr(installed, "guest_dir", missing)
    base, arrays = built("older", age=9), built("newer", "arrays")
    assert (find_guest().folder, find_guest("arrays").folder) == (base, arrays)


def test_a_named_guest_of_another_image_is_refused(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, arrays = built(named(sources)), built(named(sources, "arrays"), "arrays")
    for folder, own, other in ((base, "base", "arrays"), (arrays, "arrays", "base")):
        monkeypatch.setenv("RLM_WASM_GUEST", str(folder))
        assert find_guest(own).folder == newest_guest(own).folder == folder
        with pytest.raises(ArtifactError, match=f"is of the image {own}, and {other} is wanted"):
            find_guest(other)


def test_the_facts_of_a_guest_say_which_packages_it_has() -> None:
    assert load_guest(built("one")).facts.packages == ()
    assert load_guest(built("two", "arrays")).facts.packages == ("arrays",)
    text = (guests_dir() / "one" / artifact.FACTS_FILE).read_text()
    assert "packages" not in text  # as it was before there were variants
