"""What is offered to pip: wheels of packages that are taken from sources, where these can be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.images.lock import LockedPackage
from rlm_wasm.images.offered import offer
from rlm_wasm.images.resolution import resolve
from rlm_wasm.images.wheel import read_wheel
from tests.support.pip_index import pip_index, write_tar
from tests.support.wheels import make_wheel


def from_sources(folder: Path, name: str, files: dict[str, bytes]) -> LockedPackage:
    folder.mkdir(exist_ok=True)
    path = write_tar(
        folder / f"{name}_1.0.orig.tar.gz", {f"{name}-1.0/{file}": files[file] for file in files}
    )
    pin = PinnedFile(
        hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, f"pool/{path.name}", ()
    )
    return LockedPackage(name, "1.0", "MIT", (name.lower(),), pin)


@pytest.fixture
def offers(tmp_path: Path) -> Path:
    (tmp_path / "offers").mkdir()
    return tmp_path / "offers"


def store(tmp_path: Path) -> SourceStore:
    """A store without a mirror, as on a machine without apt: what lies in `local` is all that there is."""
    (tmp_path / "local").mkdir(exist_ok=True)
    return SourceStore(tmp_path / "downloads", local=tmp_path / "local", mirrors=list)


def test_what_another_package_needs_comes_from_its_sources(
    tmp_path: Path, offers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = pip_index(tmp_path / "index", monkeypatch)
    make_wheel(index, {"thing/__init__.py": b""}, needs=["Other>=1"])
    (tmp_path / "found").mkdir()
    package = from_sources(
        tmp_path / "local", "Other", {"lib/other/__init__.py": b"answer = 42\n", "lib/other/fast.c": b"int"}
    )
    offered = offer([package], store(tmp_path), offers, print)
    wheel = read_wheel(offers / "Other-1.0-py3-none-any.whl")
    assert {"other/__init__.py"} == {name for name in wheel.files if name.startswith("other")}
    packages, _ = resolve(["thing"], "3.14", offers, offered, tmp_path / "found")
    assert packages[0] is package
    assert packages[1].name == "thing"


def test_sources_that_cannot_be_had_are_told_and_the_others_offered(tmp_path: Path, offers: Path) -> None:
    here = from_sources(tmp_path / "local", "here", {"here/__init__.py": b""})
    away = from_sources(tmp_path / "elsewhere", "away", {"away/__init__.py": b""})
    notes: list[str] = []
    assert list(offer([away, here], store(tmp_path), offers, notes.append).values()) == [here]
    assert [note.split()[0] for note in notes] == ["away"]
    assert [path.name for path in offers.iterdir()] == ["here-1.0-py3-none-any.whl"]


def test_sources_that_are_damaged_end_it(tmp_path: Path, offers: Path) -> None:
    other = from_sources(tmp_path / "local", "other", {"another/__init__.py": b""})
    with pytest.raises(GuestBuildError, match="has no package other"):
        offer([other], store(tmp_path), offers, print)
