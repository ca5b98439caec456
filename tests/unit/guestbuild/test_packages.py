"""A variant's packages: what is compiled of one, what is linked and frozen, what it changes of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.errors import ArtifactError, GuestBuildError, UsageError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.manifest import Manifest, load_manifest
from rlm_wasm.guestbuild.names import guest_names
from rlm_wasm.guestbuild.packages import FIRST_MODULE, extension_table, package_modules, wanted_targets
from rlm_wasm.guestbuild.patches import load_patches
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import Stage
from rlm_wasm.guestbuild.stages import plan_stages
from tests.unit.guestbuild.support import folder_with_package, guest_folder

OTHER_PATCH = 'file = "a.c"\nsearch = "old"\nreplace = "other"\n'


def first(folder: Path, *packages: str) -> Recipe:
    return next(recipes(load_manifest(folder), "3.14", packages))


def keys(folder: Path, *packages: str) -> dict[str, str]:
    last = plan_stages(first(folder, *packages), BuildContext(SourceStore(folder), folder, 1, Silent()))
    found: dict[str, str] = {}

    def visit(stage: Stage) -> None:
        found[stage.name] = stage.key
        for need in stage.needs:
            visit(need)

    visit(last)
    return found


def test_a_package_changes_nothing_of_the_guest_without_it(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    before = keys(guest_folder(tmp_path / "without"))
    assert keys(folder_with_package(tmp_path / "with")) == before


def test_a_variant_takes_all_but_its_last_stages_from_the_guest_without_it(tmp_path: Path) -> None:
    folder = folder_with_package(tmp_path)
    base, variant = keys(folder), keys(folder, "arrays")
    assert {name for name in base if base[name] != variant[name]} == {"frozen", "link"}
    assert variant.keys() - base.keys() == {"cxx", "arrays"}


def test_no_module_of_a_package_takes_the_place_of_one_that_every_guest_has(tmp_path: Path) -> None:
    recipe = first(folder_with_package(tmp_path), "arrays")
    module = tmp_path / "made" / "python" / "arrays" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_bytes(b"")
    needs = {"arrays": tmp_path / "made"}
    modules = package_modules(recipe, needs)
    assert modules.keys() == {"arrays/__init__.py", FIRST_MODULE}
    for name in modules:
        with pytest.raises(GuestBuildError, match="modules of every guest are in the packages too: " + name):
            package_modules(replace(recipe, modules={name: b"", "other.py": b""}), needs)


def test_our_own_packages_take_none() -> None:
    recipe = first(guest_dir(), "numpy")
    names = {name.rpartition("/")[2] for name in recipe.package_files if name.endswith(".py")}
    assert names & recipe.modules.keys() == set()


@pytest.mark.parametrize(
    ("path", "text", "changed"),
    [
        ("packages/arrays/flags.c", "int other;\n", {"frozen", "link"}),
        ("packages/arrays/flags.h", "int other;\n", {"arrays", "frozen", "link"}),
        ("packages/rlm_variant.py", "x = 1\n", {"frozen", "link"}),
        ("packages/describe.py", "x = 1\n", {"arrays", "frozen", "link"}),
        ("patches/arrays-one.toml", OTHER_PATCH, {"arrays", "frozen", "link"}),
        ("shim/rlm.c", "int other;\n", {"link"}),
    ],
)  # fmt: skip
def test_a_change_makes_its_stage_and_those_after_again(
    tmp_path: Path, path: str, text: str, changed: set[str]
) -> None:
    before = keys(folder_with_package(tmp_path), "arrays")
    (tmp_path / path).write_text(text)
    after = keys(tmp_path, "arrays")
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize("old", ["d" * 64, 'seconds = 9'])  # fmt: skip
def test_what_does_not_go_into_a_package_does_not_count(tmp_path: Path, old: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    new = {"d" * 64: "e" * 64, "seconds = 9": "seconds = 8"}[old]
    folder = folder_with_package(tmp_path / "b", {old: new})
    assert recipe_hash(first(folder, "arrays")) == recipe_hash(
        first(folder_with_package(tmp_path / "a"), "arrays")
    )


def test_the_names_of_a_variant_are_not_those_of_the_guest_without_it(tmp_path: Path) -> None:
    folder = folder_with_package(tmp_path)
    assert not guest_names(folder) & guest_names(folder, ("arrays",))
    # clang-19 has no C++ library here, so that there is one recipe.
    assert guest_names(folder, ("arrays",)) == {recipe_hash(first(folder, "arrays"))}


def test_a_package_that_is_not_pinned_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no image scipy \(there are: base, arrays\)"):
        first(folder_with_package(tmp_path), "scipy")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('sdist = "arrays-1.0.tar.gz"', 'sdist = "../arrays.zip"', "the name of a source distribution"),
        ('backend = "mesonpy"', 'backend = "os; x"', "a module's name"),
        ('sdist = "arrays-1.0.tar.gz", backend', 'pool = "pool/a.tar", backend', "belongs to an sdist"),
        ('licence = "MIT"\n', "", "licence: must be a str"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        load_manifest(folder_with_package(tmp_path, {old: new}))


def test_of_a_build_the_wanted_modules_and_all_archives_are_compiled(tmp_path: Path) -> None:
    pin = load_manifest(folder_with_package(tmp_path)).package("arrays")
    rules = (
        "rule c_COMPILER\n"
        "build arrays/_core.so.p/one.c.o: c_COMPILER ../one.c\n"
        "build arrays/sub/_more.so.p/two.c.o arrays/sub/_more.so.p/two.d: c_COMPILER ../two.c\n"
        "build arrays/_simd.so.p/three.c.o: c_COMPILER ../three.c\n"
        "build libshared.a.p/four.c.o: c_COMPILER ../four.c\n"
        "build libshared.a: STATIC_LINKER libshared.a.p/four.c.o\n"
        "build arrays/_core.so: c_LINKER arrays/_core.so.p/one.c.o\n"
    )
    assert wanted_targets(pin, rules) == [
        "arrays/_core.so.p/one.c.o", "arrays/sub/_more.so.p/two.c.o", "libshared.a.p/four.c.o", "libshared.a",
    ]  # fmt: skip
    with pytest.raises(GuestBuildError, match="nothing to compile"):
        wanted_targets(pin, "rule c_COMPILER\n")


def test_cpython_is_told_of_each_module_by_its_full_name(tmp_path: Path) -> None:
    table = extension_table([load_manifest(folder_with_package(tmp_path)).package("arrays")]).decode()
    assert '{"arrays._core", PyInit__core}' in table
    assert '{"arrays.sub._more", PyInit__more}' in table
    assert table.index("PyObject *PyInit__more(void);") < table.index("extensions[]")


@pytest.fixture(scope="module")
def shipped() -> Manifest:
    return load_manifest()


def test_the_shipped_package_has_its_patches_and_files_of_ours(shipped: Manifest) -> None:
    pin = shipped.package("numpy")
    assert all(load_patches(shipped.folder / "patches", name) for name in pin.patches)
    assert {cxx.toolchain for cxx in shipped.cxx} == {pin.name for pin in shipped.toolchains}
    assert (shipped.folder / "packages" / "numpy" / "rlm_numpy.py").is_file()
    assert "BSD-3-Clause" in pin.licence


def test_a_build_that_asks_for_a_python_is_told_of_the_guests() -> None:
    program = guest_dir() / "packages" / "describe.py"
    told = subprocess.run(
        [sys.executable, str(program), "3.14", "/include", "/x/python_info.py"],
        capture_output=True,
        check=True,
    )
    described = json.loads(told.stdout)
    assert (described["version"], described["variables"]["INCLUDEPY"]) == ("3.14", "/include")
    ran = subprocess.run(
        [sys.executable, str(program), "3.14", "/include", "-c", "print(6 * 7)"],
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"42\n"
