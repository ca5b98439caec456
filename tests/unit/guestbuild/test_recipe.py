"""The recipe's hash names the guest: it changes if, and only if, something that goes in changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import Stage
from rlm_wasm.guestbuild.stages import plan_stages
from tests.unit.guestbuild.support import guest_folder

ALL = {
    "toolchain", "python-src", "native", "libraries", "instrumented", "profile", "libpython", "stdlib",
    "frozen", "link",
}  # fmt: skip
# What a change of the training, or of anything it is made of, comes to.
TRAINED = {"profile", "libpython", "link"}
COMPILED = {"instrumented", *TRAINED}


def first(folder: Path) -> Recipe:
    return next(recipes(load_manifest(folder), "3.14"))


def keys(folder: Path, jobs: int = 1) -> dict[str, str]:
    last = plan_stages(first(folder), BuildContext(SourceStore(folder), folder, jobs, Silent()))
    found: dict[str, str] = {}

    def visit(stage: Stage) -> None:
        found[stage.name] = stage.key
        for need in stage.needs:
            visit(need)

    visit(last)
    return found


def edit(path: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text(text) and None


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / "manifest.toml").read_text()
        assert old in text
        (folder / "manifest.toml").write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (edit("shim/rlm.c", "int other;\n"), {"link"}),
        (edit("shim/more.c", "int more;\n"), {"link"}),
        (edit("python/rlm_boot.py", "boot = 2\n"), {"frozen", "link"}),
        (edit("python/sub.py", ""), {"frozen", "link"}),
        (edit("shim/start.c", "int other;\n"), TRAINED),
        (edit("training/train.c", "int other;\n"), TRAINED),
        (edit("training/rlm_training.py", "def train(): return 1\n"), TRAINED),
        (replace('instrument = ["-fprofile-generate"]', "instrument = []"), COMPILED),
        (replace('use = ["-Werror"]', "use = []"), {"libpython", "link"}),
        (replace('merge = ["-r"]', "merge = []"), {"libpython", "link"}),
        (replace('alone = ["Python/ceval.o"]', "alone = []"), {"libpython", "link"}),
        (edit("tools/freeze.py", "pass\n"), {"stdlib", "frozen", *TRAINED}),
        (replace('exclude = ["tkinter"]', "exclude = []"), {"stdlib", "frozen", *TRAINED}),
        (replace('libraries = ["-lm"]', "libraries = []"), TRAINED),
        (replace('wrap = ["chdir"]', "wrap = []"), {"link"}),
        (replace('imports = ["call", "take"]', 'imports = ["call"]'), {"link"}),
        (replace('cflags = ["-fwrapv"]', "cflags = []"), COMPILED),
        (replace('small = ["Python/ceval.o"]', "small = []"), COMPILED),
        (replace('opt = ["-O3"]', 'opt = ["-O2"]'), {"libraries", *COMPILED}),
        (replace("epoch = 1767225600", "epoch = 1"), {"libraries", *COMPILED}),
        (edit("libraries/zlib/more.c", "int other;\n"), {"libraries", *COMPILED}),
        (replace('archive = "z"', 'archive = "y"'), {"libraries", *COMPILED}),
        (replace('version = "2026.6"', 'version = "2026.7"'), {"frozen", "link"}),
        (
            edit(
                "patches/one.toml",
                '[[change]]\nfile = "a.c"\nsearch = "old"\nreplace = "new"\n'
                '[[change]]\nfile = "Lib/a.py"\nsearch = "old"\nreplace = "new"\n',
            ),
            {"frozen", "link"},
        ),
        (replace('version = "1.3.2"', 'version = "1.3.3"'), {"libraries", *COMPILED}),
        (
            edit("patches/one.toml", 'file = "a.c"\nsearch = "old"\nreplace = "x"\n'),
            ALL - {"toolchain", "libraries"},
        ),
        (
            replace('target = "wasm32-wasip1"', 'target = "wasm32-wasi"'),
            {"toolchain", "libraries", *COMPILED},
        ),
    ],
)
def test_a_change_of_an_input_changes_its_stage_and_those_after(
    tmp_path: Path, change: Callable[[Path], None], changed: set[str]
) -> None:
    before = keys(guest_folder(tmp_path))
    name = recipe_hash(first(tmp_path))
    change(tmp_path)
    after = keys(tmp_path)
    assert {stage for stage in ALL if before[stage] != after[stage]} == changed
    assert recipe_hash(first(tmp_path)) != name


@pytest.mark.parametrize("source", ["python", "zlib", "tzdata", "clang22", "wasi"])
def test_another_source_is_another_recipe(tmp_path: Path, source: str) -> None:
    before = recipe_hash(first(guest_folder(tmp_path)))
    path = {
        "python": "python.tar.xz",
        "zlib": "zlib.tar.gz",
        "tzdata": "tzdata.whl",
        "clang22": "clang-22.deb",
        "wasi": "wasi-libc.deb",
    }
    lines = (tmp_path / "manifest.toml").read_text().splitlines()
    for index, line in enumerate(lines):
        if path[source] in line:
            head, _, digest = line.rpartition('sha256 = "')
            lines[index] = f'{head}sha256 = "{"f" * 64}{digest[64:]}'
    (tmp_path / "manifest.toml").write_text("\n".join(lines))
    assert recipe_hash(first(tmp_path)) != before


@pytest.mark.parametrize(
    "change",
    [
        replace("format = 1", "# a comment\nformat = 1"),
        replace("pool/main/p/python.tar.xz", "pool/other/p/python.tar.xz"),
        replace('soname = "libz.so.1"', 'soname = "libother.so.1"'),
        replace('path = "usr/bin/make"', 'path = "bin/make"'),
        edit("python/notes.txt", "not Python"),
        edit("README.md", "words"),
    ],
)
def test_what_does_not_go_in_does_not_count(tmp_path: Path, change: Callable[[Path], None]) -> None:
    before = recipe_hash(first(guest_folder(tmp_path)))
    change(tmp_path)
    assert recipe_hash(first(tmp_path)) == before


def test_the_hash_does_not_depend_on_where_or_how_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a-much-longer-name").mkdir()
    here, there = guest_folder(tmp_path / "a"), guest_folder(tmp_path / "a-much-longer-name")
    assert keys(here, jobs=1) == keys(there, jobs=8)


def test_recipes_come_in_the_manifests_order(tmp_path: Path) -> None:
    found = list(recipes(load_manifest(guest_folder(tmp_path)), "3.14"))
    assert [recipe.toolchain.name for recipe in found] == ["clang-22", "clang-19"]
    assert len({recipe_hash(recipe) for recipe in found}) == 2


def test_a_machine_without_a_pinned_toolchain_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = guest_folder(tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(GuestBuildError, match="no toolchain is pinned for riscv64"):
        first(folder)


def test_a_guest_folder_without_a_shim_is_incomplete(tmp_path: Path) -> None:
    for file in (guest_folder(tmp_path) / "shim").iterdir():
        file.unlink()
    with pytest.raises(ArtifactError, match=r"nothing in .*shim"):
        first(tmp_path)
