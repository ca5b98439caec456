"""The stage of C libraries: which files are compiled, with which flags, and what comes out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.build_host import find_make
from rlm_wasm.guestbuild.libraries import make_libraries
from rlm_wasm.guestbuild.manifest import LibraryPin, Release, load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from tests.unit.guestbuild.support import guest_folder, member, pin, tar

pytestmark = pytest.mark.skipif(find_make() is None, reason="this machine has no make")

ZLIB = LibraryPin(
    name="zlib",
    archive="z",
    configure="ZLIB",
    folder="src",
    sources=("*.c", "deep/*.c"),
    leave=("*_small.c",),
    include=(".", "deep"),
    headers_in="api",
    headers=("zlib.h", "zlib/*.h"),
    flags=("-DTWO=2",),
    releases=(),
)
MEMBERS: Mapping[str, bytes] = {
    "z-1/src/one.c": b"one",
    "z-1/src/one_small.c": b"small",
    "z-1/src/deep/two.c": b"two",
    "z-1/src/api/zlib.h": b"head",
    "z-1/src/api/zlib/more.h": b"more",
    "z-1/src/api/private.h": b"private",
    "z-1/configure": b"no source",
}


def build(tmp_path: Path, pinned: LibraryPin = ZLIB, members: Mapping[str, bytes] = MEMBERS) -> Path:
    """Run the stage with a compiler that writes down how it was called, and an archiver that joins files."""
    tmp_path.joinpath("guest").mkdir()
    recipe: Recipe = next(recipes(load_manifest(guest_folder(tmp_path / "guest")), "3.14"))
    tarball = tar(tmp_path / "zlib.tar", *(member(name, content) for name, content in members.items()))
    release = Release("1", (pin(tarball.read_bytes(), pool="pool/main/z/zlib.tar"),))
    tools = tmp_path / "toolchain"
    tools.mkdir()
    for name, text in {
        "cc": 'for last; do :; done\necho "$@" > "$last"',
        "ar": 'shift; out=$1; shift; cat "$@" > "$out"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    context = BuildContext(SourceStore(tmp_path / "down", local=tmp_path), tmp_path / "logs", 2, Silent())
    make_libraries(replace(recipe, libraries=((pinned, release),)), context, out, {"toolchain": tools})
    return out


def test_the_named_sources_are_compiled_and_ours_beside_them(tmp_path: Path) -> None:
    out = build(tmp_path)
    calls = (out / "lib" / "libz.a").read_text().splitlines()
    compiled = [call.split(" -c ")[1].split()[0] for call in calls]
    assert compiled == ["zlib/src/deep/two.c", "zlib/src/one.c", "zlib/more.c"]
    for call in calls:
        assert call.startswith("-O3 -DTWO=2 -Izlib/src/. -Izlib/src/deep -ffile-prefix-map=")
        assert f"{out}/work=work" in call


def test_headers_keep_their_paths_and_nothing_else_is_left(tmp_path: Path) -> None:
    out = build(tmp_path)
    found = sorted(
        os.path.relpath(Path(base, name), out) for base, _, files in os.walk(out) for name in files
    )
    assert found == ["include/zlib.h", "include/zlib/more.h", "lib/libz.a"]


@pytest.mark.parametrize("field", ["sources", "headers"])
def test_a_pattern_that_names_nothing_is_a_mistake(tmp_path: Path, field: str) -> None:
    with pytest.raises(GuestBuildError, match=r"the sources of zlib have no absent\.c"):
        build(tmp_path, replace(ZLIB, **{field: ("absent.c",)}))


def test_two_builds_give_the_same_bytes_but_for_the_mapped_paths(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = (build(tmp_path / name) / "lib" / "libz.a").read_text()
        found.append(text.replace(str(tmp_path / name), ""))
        shutil.rmtree(tmp_path / name)
    assert found[0] == found[1]
