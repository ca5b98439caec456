"""The freezer: same modules in, same bytes out, and an index that finds each of them."""

from __future__ import annotations

import json
import marshal
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.assembly import freeze_with_stdlib, make_stdlib
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.build_host import write_script
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import recipes
from rlm_wasm.guestbuild.sources import SourceStore
from tests.unit.guestbuild.support import guest_folder


def freeze(folder: Path, out: Path, *excluded: str) -> tuple[bytes, list[list[object]]]:
    tool = guest_dir() / "tools" / "freeze.py"
    argv = [sys.executable, "-s", "-S", "-B", tool, folder, out, *excluded]
    subprocess.run(argv, check=True, capture_output=True, env={"PYTHONHASHSEED": "0"})
    return out.with_suffix(".bin").read_bytes(), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "b.py": "x = {'a', 'b', None, ..., (1, 2)}\n",
        "a/__init__.py": "",
        "a/c.py": "def f(): return 'text'\n",
        "a/test/t.py": "",
        "skip/d.py": "",
        "not-a-name.py": "",
        "a/notes.txt": "",
    }.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "modules"


def test_modules_are_found_in_a_fixed_order_without_tests_and_the_excluded(folder: Path) -> None:
    _, index = freeze(folder, folder.parent / "out", "skip")
    assert [[name, package] for name, _, _, package in index] == [["b", 0], ["a", 1], ["a.c", 0]]


def test_each_row_finds_its_code(folder: Path) -> None:
    blob, index = freeze(folder, folder.parent / "out")
    for name, offset, size, _ in index:
        assert isinstance(offset, int)
        assert isinstance(size, int)
        assert offset % 16 == 0
        assert marshal.loads(blob[offset : offset + size]).co_filename == f"<frozen {name}>"


def test_two_runs_give_the_same_bytes_wherever_the_modules_lie(folder: Path, tmp_path: Path) -> None:
    first = freeze(folder, tmp_path / "one")
    moved = tmp_path / "somewhere" / "else"
    moved.parent.mkdir()
    folder.rename(moved)
    assert freeze(moved, tmp_path / "two") == first


class _Native:
    """A build of which the native interpreter is this one, and the standard library two modules."""

    def __init__(self, folder: Path) -> None:
        (folder / "guest").mkdir()
        self.recipe = next(recipes(load_manifest(guest_folder(folder / "guest")), "3.14"))
        self.recipe = replace(
            self.recipe, tools={"freeze.py": (guest_dir() / "tools" / "freeze.py").read_bytes()}
        )
        self.context = BuildContext(SourceStore(folder), folder / "logs", 1, Silent())
        self.needs = {name: folder / name for name in ("native", "python-src", "stdlib")}
        for need in self.needs.values():
            need.mkdir()
        write_script(self.needs["native"] / "python", f'PYTHONHASHSEED=0 exec {sys.executable} "$@"')
        lib = self.needs["python-src"] / "Lib"
        lib.mkdir()
        (lib / "one.py").write_text("x = 'old'\n")
        (lib / "two.py").write_text("y = 1\n")
        make_stdlib(self.recipe, self.context, self.needs["stdlib"], self.needs)


def rows(out: Path) -> dict[str, object]:
    """What each row of the table finds in the blob, run: the module's names."""
    blob = (out / "frozen.bin").read_bytes()
    found: dict[str, object] = {}
    for name, offset, size in re.findall(
        r'\{"(\w+)", blob\+(\d+), (\d+), 0\}', (out / "frozen_table.h").read_text()
    ):
        values: dict[str, object] = {}
        exec(marshal.loads(blob[int(offset) : int(offset) + int(size)]), values)
        found[name] = {key: value for key, value in values.items() if key != "__builtins__"}
    return found


def test_a_patched_module_takes_the_place_of_the_one_that_it_changes(tmp_path: Path) -> None:
    native = _Native(tmp_path)
    (tmp_path / "out").mkdir()
    modules = {"ours.py": b"z = 2\n"}
    freeze_with_stdlib(
        native.recipe,
        native.context,
        tmp_path / "out",
        native.needs,
        "guest",
        modules,
        {"one.py": b"x = 'new'\n"},
    )
    assert rows(tmp_path / "out") == {"one": {"x": "new"}, "two": {"y": 1}, "ours": {"z": 2}}


def test_a_module_of_ours_takes_nobodys_place_by_mistake(tmp_path: Path) -> None:
    native = _Native(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(GuestBuildError, match="two frozen modules are called two"):
        freeze_with_stdlib(
            native.recipe, native.context, tmp_path / "a", native.needs, "guest", {"two.py": b""}
        )
    with pytest.raises(GuestBuildError, match=r"modules of ours are patched: one\.py"):
        freeze_with_stdlib(
            native.recipe,
            native.context,
            tmp_path / "b",
            native.needs,
            "guest",
            {"one.py": b""},
            {"one.py": b""},
        )
