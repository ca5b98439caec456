"""Publishing a guest: whole or not at all, and not again while it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import wasmtime

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.guest import CODE_FILE, IMAGE_FILE, image_mac, load_guest, save_facts
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.build import Built, build_guest, recipe_hash
from rlm_wasm.guestbuild.build_context import BuildContext, plans_only
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import StageCache
from rlm_wasm.guestbuild.stages import plan_stages
from rlm_wasm.guestbuild.verify import verify_guest
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.wasm_format import strip_data
from tests.unit.guestbuild.support import Watched, guest_folder

RAW = bytes(
    wasmtime.wat2wasm(
        """(module
        (import "rlm" "call" (func (param i32 i32) (result i32)))
        (import "rlm" "take" (func (param i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 8) "hello")
        (func (export "rlm_exec")))"""
    )
)


class Preparing:
    """Stands where the sandbox's preparation does, and writes a folder that is whole in form."""

    def __init__(self, fail: BaseException | None = None) -> None:
        self.fail, self.calls = fail, 0

    def __call__(
        self, raw: Path, folder: Path, /, *, recipe: str, cpython: str, packages: tuple[str, ...]
    ) -> None:
        self.calls += 1
        code, image = strip_data(raw.read_bytes())[0], bytes(artifact.PAGE_BYTES)
        for name, content in ((artifact.RAW_FILE, RAW), (CODE_FILE, code), (IMAGE_FILE, image)):
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)
        if self.fail is not None:
            raise self.fail
        # Addresses and the like are not looked at here: 0 stands for all of them.
        values = {field.name: 0 for field in fields(GuestFacts)} | {
            "format": artifact.FORMAT, "recipe": recipe, "cpython": cpython, "wasmtime": "0",
            "raw_sha256": hashlib.sha256(RAW).hexdigest(), "code_sha256": hashlib.sha256(code).hexdigest(),
            "image_sha256": hashlib.sha256(image).hexdigest(), "image_bytes": len(image),
            "image_mac": image_mac(image), "stack_pointer": 16,
            "imports": ("rlm.call", "rlm.take"), "exports": ("memory", "rlm_exec"),
            "packages": packages,
        }  # fmt: skip
        facts = GuestFacts(**values)
        save_facts(folder, facts)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose linked module is already in the cache, put there as its stage would."""
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RLM_WASM_STATE", str(tmp_path / "state"))
    # No apt on it, so no mirror: nothing here may reach a network.
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    (tmp_path / "guest").mkdir()
    first = next(recipes(load_manifest(guest_folder(tmp_path / "guest")), "3.14"))
    last = plan_stages(first, BuildContext(SourceStore(tmp_path), tmp_path, 1, Silent()))

    def put(out: Path, needs: Mapping[str, Path]) -> None:
        (out / "raw.wasm").write_bytes(RAW)

    stages = StageCache(tmp_path / "cache" / "build", Silent())
    with stages.locked():
        stages.ensure(replace(last, needs=(), make=put))
    return first


def build(tmp_path: Path, recipe: Recipe, prepare: Preparing, progress: Watched | None = None) -> Built:
    return build_guest(
        [recipe], prepare, plans_only, cache=tmp_path / "cache", jobs=1, progress=progress or Watched()
    )


def test_a_guest_is_published_under_its_recipes_hash(tmp_path: Path, recipe: Recipe) -> None:
    built = build(tmp_path, recipe, Preparing())
    assert built.folder == tmp_path / "cache" / "guests" / recipe_hash(recipe)
    guest = load_guest(built.folder)
    assert (guest.facts.recipe, guest.facts.cpython) == (recipe_hash(recipe), "3.14.7")
    assert not built.reused


def test_nothing_runs_when_nothing_has_changed(tmp_path: Path, recipe: Recipe) -> None:
    prepare, progress = Preparing(), Watched()
    build(tmp_path, recipe, prepare)
    assert build(tmp_path, recipe, prepare, progress).reused
    assert prepare.calls == 1
    assert progress.began == []


def test_a_whole_guest_is_enough_although_every_cache_is_gone(tmp_path: Path, recipe: Recipe) -> None:
    build(tmp_path, recipe, Preparing())
    shutil.rmtree(tmp_path / "cache" / "build")
    assert build(tmp_path, recipe, Preparing()).reused


@pytest.mark.parametrize("name", ["with space", "a:b", "a=b", "a$b", "a#b", "a'b"])
def test_a_cache_path_that_makefiles_cannot_hold_is_refused(
    tmp_path: Path, recipe: Recipe, name: str
) -> None:
    with pytest.raises(GuestBuildError, match="need a path without spaces") as refused:
        build_guest([recipe], Preparing(), plans_only, cache=tmp_path / name, jobs=1, progress=Watched())
    assert "RLM_WASM_CACHE" in str(refused.value.hint)
    assert not (tmp_path / name).exists()


def test_a_relative_cache_folder_is_the_same_as_its_absolute_path(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built = build_guest([recipe], Preparing(), plans_only, cache=Path("cache"), jobs=1, progress=Watched())
    assert built.folder == tmp_path / "cache" / "guests" / recipe_hash(recipe)


def test_force_prepares_again(tmp_path: Path, recipe: Recipe) -> None:
    """The linked module is discarded too; here it cannot be made again, and that is the proof."""
    build(tmp_path, recipe, Preparing())
    with pytest.raises(GuestBuildError, match="no C compiler is installed"):
        build_guest(
            [recipe],
            Preparing(),
            plans_only,
            cache=tmp_path / "cache",
            jobs=1,
            progress=Watched(),
            force=True,
        )


@pytest.mark.parametrize("name", [CODE_FILE, IMAGE_FILE, artifact.RAW_FILE, artifact.FACTS_FILE])
def test_a_damaged_guest_is_prepared_again(tmp_path: Path, recipe: Recipe, name: str) -> None:
    prepare = Preparing()
    folder = build(tmp_path, recipe, prepare).folder
    damaged = bytearray((folder / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / name).write_bytes(damaged)
    assert not build(tmp_path, recipe, prepare).reused
    assert prepare.calls == 2
    verify_guest(load_guest(folder), recipe.manifest.boundary)


def test_the_images_over_a_guest_outlive_its_preparation(tmp_path: Path, recipe: Recipe) -> None:
    folder = build(tmp_path, recipe, Preparing()).folder
    image = folder / "images" / "mine" / "packages.img"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"memory")
    (folder / CODE_FILE).unlink()
    assert not build(tmp_path, recipe, Preparing()).reused
    assert image.read_bytes() == b"memory"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ArtifactError("initialisation failed")])
def test_a_failed_preparation_publishes_nothing(tmp_path: Path, recipe: Recipe, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        build(tmp_path, recipe, Preparing(stop))
    assert list((tmp_path / "cache" / "guests").iterdir()) == []
    assert not build(tmp_path, recipe, Preparing()).reused


def test_a_disk_that_fills_up_at_the_end_is_a_clear_error(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(GuestBuildError, match="the disk is full: could not write the guest below"):
        build(tmp_path, recipe, Preparing(OSError(errno.ENOSPC, "No space left on device")))
    assert list((tmp_path / "cache" / "guests").iterdir()) == []


def test_old_guests_are_dropped_but_not_the_new_one(tmp_path: Path, recipe: Recipe) -> None:
    guests = tmp_path / "cache" / "guests"
    for number in range(10):
        (guests / f"old{number}").mkdir(parents=True)
        (guests / f"old{number}" / artifact.FACTS_FILE).write_text("{}")
        os.utime(guests / f"old{number}" / artifact.FACTS_FILE, (number + 1, number + 1))
    build(tmp_path, recipe, Preparing())
    assert {p.name for p in guests.iterdir()} == {
        *(f"old{number}" for number in range(3, 10)),
        recipe_hash(recipe),
    }


def test_verify_proves_an_honest_guest(tmp_path: Path, recipe: Recipe) -> None:
    guest = load_guest(build(tmp_path, recipe, Preparing()).folder)
    proven = verify_guest(guest, recipe.manifest.boundary)
    assert any("imports are exactly the 2 listed: rlm.call, rlm.take" in line for line in proven)


def test_verify_refuses_code_that_is_not_the_linked_modules(tmp_path: Path, recipe: Recipe) -> None:
    guest = load_guest(build(tmp_path, recipe, Preparing()).folder)
    other = strip_data(bytes(wasmtime.wat2wasm("(module)")))[0]
    (guest.folder / CODE_FILE).write_bytes(other)
    save_facts(guest.folder, replace(guest.facts, code_sha256=hashlib.sha256(other).hexdigest()))
    with pytest.raises(ArtifactError, match="not the linked module without its data"):
        verify_guest(load_guest(guest.folder), recipe.manifest.boundary)


def test_verify_refuses_a_boundary_the_manifest_does_not_list(tmp_path: Path, recipe: Recipe) -> None:
    guest = load_guest(build(tmp_path, recipe, Preparing()).folder)
    with pytest.raises(GuestBuildError, match=r"imports rlm\.take \(func\), which is not listed"):
        verify_guest(guest, replace(recipe.manifest.boundary, imports=("call",)))


def test_verify_refuses_facts_that_hide_an_import(tmp_path: Path, recipe: Recipe) -> None:
    guest = load_guest(build(tmp_path, recipe, Preparing()).folder)
    save_facts(guest.folder, replace(guest.facts, imports=("rlm.call",)))
    with pytest.raises(ArtifactError, match="another boundary than its facts say"):
        verify_guest(load_guest(guest.folder), recipe.manifest.boundary)
