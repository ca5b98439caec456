"""Patches apply exactly where they were made for, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.patches import Patch, load_patches

PATCH = Patch("p", "a/b.c", "int old;\n", "int new;\n")


def tree(folder: Path, text: str) -> Path:
    (folder / "a").mkdir()
    (folder / "a/b.c").write_text(text)
    os.utime(folder / "a/b.c", (1_000_000_000, 1_000_000_000))
    return folder


def test_a_patch_replaces_its_anchor_and_keeps_the_time(tmp_path: Path) -> None:
    PATCH.apply(tree(tmp_path, "x\nint old;\ny\n"))
    assert (tmp_path / "a/b.c").read_text() == "x\nint new;\ny\n"
    assert (tmp_path / "a/b.c").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize(("text", "count"), [("nothing\n", 0), ("int old;\nint old;\n", 2)])
def test_a_patch_without_exactly_one_anchor_fails_and_changes_nothing(
    tmp_path: Path, text: str, count: int
) -> None:
    with pytest.raises(GuestBuildError, match=f"anchor occurs {count} times in a/b.c"):
        PATCH.apply(tree(tmp_path, text))
    assert (tmp_path / "a/b.c").read_text() == text


def test_a_patch_for_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="does not exist"):
        PATCH.apply(tmp_path)


GUARD = """
[[guard]]
file = "a/b.c"
statement = "if (deep()) return 0;"
heads = ["one(void)", '''
two(int a,
    int b)''']
"""
FUNCTIONS = "int\none(void)\n{\n    int x;\n}\nint\nnone(void)\n{\n}\nint\ntwo(int a,\n    int b)\n{\n}\n"


def write(folder: Path, text: str) -> Path:
    (folder / "p.toml").write_text(text)
    return folder


def test_a_guard_goes_in_front_of_the_body_of_each_function_it_names(tmp_path: Path) -> None:
    source = tree(tmp_path, FUNCTIONS)
    for patch in load_patches(write(tmp_path, GUARD), "p"):
        patch.apply(source)
    guard = "    if (deep()) return 0;\n"
    assert (tmp_path / "a/b.c").read_text() == (
        f"int\none(void)\n{{\n{guard}    int x;\n}}\nint\nnone(void)\n{{\n}}\n"
        f"int\ntwo(int a,\n    int b)\n{{\n{guard}}}\n"
    )


def test_a_guard_of_a_function_that_is_gone_fails(tmp_path: Path) -> None:
    source = tree(tmp_path, "int\none(int changed)\n{\n}\n")
    with pytest.raises(GuestBuildError, match="occurs 0 times"):
        load_patches(write(tmp_path, GUARD), "p")[0].apply(source)


def test_a_file_may_hold_several_changes(tmp_path: Path) -> None:
    change = '[[change]]\nfile = "a/b.c"\nsearch = "{}"\nreplace = "{}"\n'
    source = tree(tmp_path, "one two\n")
    for patch in load_patches(write(tmp_path, change.format("one", "1") + change.format("two", "2")), "p"):
        patch.apply(source)
    assert (tmp_path / "a/b.c").read_text() == "1 2\n"


@pytest.mark.parametrize(
    "text",
    ["", "not toml", 'file = "a"\nsearch = "b"\n', 'file = "a"\nsearch = ""\nreplace = "c"\n',
     'file = "a"\nsearch = "b"\nreplace = "b"\n', 'file = "a"\nsearch = "b"\nreplace = 1\n',
     'file = "a"\nsearch = "b"\nreplace = "c"\nmore = "d"\n',
     "change = 1", "change = [1]", '[[change]]\nfile = "a"\n',
     '[[guard]]\nfile = "a"\nstatement = "b"\n', '[[guard]]\nfile = "a"\nstatement = "b"\nheads = [1]\n',
     '[[guard]]\nfile = "a"\nstatement = ""\nheads = ["c"]\n', '[[guard]]\nfile = "a"\nheads = ["c"]\n',
     GUARD + "[other]\n"],
)  # fmt: skip
def test_a_malformed_patch_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(GuestBuildError, match=r"p\.toml"):
        load_patches(write(tmp_path, text), "p")


def test_every_patch_the_manifest_names_can_be_read() -> None:
    manifest = load_manifest()
    for pin in manifest.pythons:
        for name in pin.patches:
            assert {patch.name for patch in load_patches(manifest.folder / "patches", name)} == {name}
