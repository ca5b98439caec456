"""The workshop brings make itself where the machine has none."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.guestbuild.build_context import BuildContext
from rlm_wasm.guestbuild.manifest import HostFile, load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from tests.unit.guestbuild.support import deb, guest_folder, member, pin


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "guest").mkdir()
    return next(recipes(load_manifest(guest_folder(tmp_path / "guest")), "3.14"))


def test_the_machines_make_is_used(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text("#!/bin/sh\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", str(make.parent))
    context = BuildContext(SourceStore(tmp_path / "down"), tmp_path, 3, Silent())
    assert context.make_command(recipe, tmp_path) == [str(make), "-j3"]


def test_without_make_the_pinned_package_is_unpacked(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = deb(
        tmp_path / "make.deb",
        member("./usr/bin/make", b"#!/bin/sh\necho this is make\n", mode=0o755),
        member("./usr/share/doc/make", b"not needed"),
    )
    content = package.read_bytes()
    tool = HostFile("make", "usr/bin/make", pin(content, pool="pool/main/m/make.deb"))
    assert hashlib.sha256(content).hexdigest() == tool.file.sha256
    recipe = replace(recipe, manifest=replace(recipe.manifest, host_tools=(tool,)))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    context = BuildContext(SourceStore(tmp_path / "down", local=tmp_path), tmp_path, 2, Silent())
    program, jobs = context.make_command(recipe, tmp_path / "work")
    assert jobs == "-j2"
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout == "this is make\n"
    assert [p.name for p in (tmp_path / "work").rglob("*") if p.is_file()] == ["make"]
