"""Patches apply exactly where they were made for, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.image.manifest import load_manifest
from rlm_wasm.image.patches import Patch, load_patch

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


@pytest.mark.parametrize(
    "text",
    ["not toml", 'file = "a"\nsearch = "b"\n', 'file = "a"\nsearch = ""\nreplace = "c"\n',
     'file = "a"\nsearch = "b"\nreplace = "b"\n', 'file = "a"\nsearch = "b"\nreplace = 1\n',
     'file = "a"\nsearch = "b"\nreplace = "c"\nmore = "d"\n'],
)  # fmt: skip
def test_a_malformed_patch_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(GuestBuildError, match=r"p\.toml"):
        load_patch(tmp_path, "p")


def test_every_patch_the_manifest_names_can_be_read() -> None:
    manifest = load_manifest()
    for pin in manifest.pythons:
        for name in pin.patches:
            assert load_patch(manifest.folder / "patches", name).name == name
