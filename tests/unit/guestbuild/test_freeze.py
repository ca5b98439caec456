"""The freezer: same modules in, same bytes out, and an index that finds each of them."""

from __future__ import annotations

import json
import marshal
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir


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
