"""Which pins are used: the first that can be had, and then always the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.mirrors import Mirror
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.select_recipe import choose
from rlm_wasm.guestbuild.sources import SourceStore, SourceUnavailable
from rlm_wasm.guestbuild.stage_cache import Stage, StageCache
from tests.unit.guestbuild.support import PATHS, Site, Watched, guest_folder, serve


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as running:
        running.files.update(PATHS)
        yield running


@pytest.fixture
def candidates(tmp_path: Path) -> list[Recipe]:
    (tmp_path / "guest").mkdir()
    return list(recipes(load_manifest(guest_folder(tmp_path / "guest")), "3.14"))


class Bench:
    """One build's choice, over a cache that stays between builds."""

    def __init__(self, folder: Path, candidates: list[Recipe]) -> None:
        self.folder, self.candidates = folder, candidates

    def choose(self, site: Site, local: Path | None = None) -> tuple[Recipe, Stage, Watched]:
        progress = Watched()
        store = SourceStore(self.folder / "downloads", local=local, mirrors=lambda: [Mirror(site.root)])
        stages = StageCache(self.folder / "build", progress)
        with stages.locked():
            context = BuildContext(store, self.folder / "logs", 1, progress)
            recipe, last = choose(self.candidates, context, stages, extra=[("image", 1)])
        return recipe, last, progress


@pytest.fixture
def bench(tmp_path: Path, candidates: list[Recipe]) -> Bench:
    return Bench(tmp_path, candidates)


def test_the_first_toolchain_is_chosen_and_everything_is_fetched_first(bench: Bench, site: Site) -> None:
    recipe, last, progress = bench.choose(site)
    assert recipe.toolchain.name == "clang-22"
    assert {path for path, _ in site.requests} == set(PATHS) - {"/pool/main/c/clang-19.deb"}
    assert last.name == "link"
    assert progress.planned[-1][0] == "download"
    assert progress.planned[-1][-2:] == ["link", "image"]


def test_a_missing_compiler_is_told_before_anything_is_downloaded(
    bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(GuestBuildError, match="no C compiler is installed"):
        bench.choose(site)
    assert site.requests == []


def test_a_toolchain_that_has_left_the_pool_is_replaced_by_the_next(bench: Bench, site: Site) -> None:
    del site.files["/pool/main/c/clang-22.deb"]
    recipe, _, progress = bench.choose(site)
    assert recipe.toolchain.name == "clang-19"
    assert progress.notes == ["not all files of CPython 3.14.7, zlib 1.3.2, clang-22 can be had"]


def test_a_build_that_fell_back_stays_with_its_toolchain(bench: Bench, site: Site) -> None:
    del site.files["/pool/main/c/clang-22.deb"]
    _, before, _ = bench.choose(site)
    site.files.update(PATHS)
    asked = len(site.requests)
    recipe, after, progress = bench.choose(site)
    assert (recipe.toolchain.name, after.key) == ("clang-19", before.key)
    assert len(site.requests) == asked
    assert progress.began == []


def test_local_files_need_no_network(bench: Bench, site: Site, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    for path, content in PATHS.items():
        (local / Path(path).name).write_bytes(content)
    site.files.clear()
    recipe, _, progress = bench.choose(site, local)
    assert recipe.toolchain.name == "clang-22"
    assert site.requests == []
    assert progress.planned[-1][0] != "download"


def test_when_nothing_can_be_had_every_reason_is_told(bench: Bench, site: Site) -> None:
    del site.files["/pool/main/c/clang-22.deb"]
    del site.files["/pool/main/c/clang-19.deb"]
    with pytest.raises(SourceUnavailable) as caught:
        bench.choose(site)
    assert "clang-22.deb" in caught.value.message
    assert "clang-19.deb" in caught.value.message
    assert "HTTP 404" in caught.value.message
    assert caught.value.hint


def test_a_missing_source_is_told_once_although_every_recipe_needs_it(bench: Bench, site: Site) -> None:
    del site.files["/pool/main/p/python.tar.xz"]
    with pytest.raises(SourceUnavailable) as caught:
        bench.choose(site)
    assert caught.value.message.count("could not get python.tar.xz") == 1
