"""The licences of a guest: a text of each ingredient out of its own archive, or no wheel."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.licences import ingredients, licence_entries, licence_texts
from rlm_wasm.guestbuild.manifest import PinnedFile, load_manifest
from rlm_wasm.guestbuild.recipe import Recipe, recipes
from rlm_wasm.guestbuild.sources import SourceStore
from tests.unit.guestbuild.support import deb, guest_folder, member, tar

TABLE = """
format = 1
[[ingredient]]
of = "cpython"
name = "CPython"
spdx = "Python-2.0"
texts = ["LICENSE", "Doc/license.rst"]
[[ingredient]]
of = "zlib"
name = "zlib"
spdx = "Zlib"
texts = ["zlib.h"]
[[ingredient]]
of = "zones"
name = "tzdata"
spdx = "Apache-2.0"
texts = ["*.dist-info/licenses/LICENSE"]
[[ingredient]]
of = "wasi-libc"
name = "wasi-libc"
spdx = "MIT"
texts = ["usr/share/doc/wasi-libc/copyright"]
[[ingredient]]
of = "compiler-rt"
name = "compiler-rt"
spdx = "Apache-2.0 WITH LLVM-exception"
texts = ["usr/share/doc/libclang-rt-*-dev-wasm32/copyright"]
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = guest_folder(tmp_path / "guest")
    (folder / "licences.toml").write_text(TABLE)
    return folder


@pytest.fixture
def recipe(sources: Path, tmp_path: Path) -> Recipe:
    """A recipe whose pinned files are archives as the real ones are laid out, in a folder of downloads."""
    where = tmp_path / "archives"
    where.mkdir()
    python = tar(
        where / "python.tar.xz",
        member("Python-3/LICENSE", b"python's terms"), member("Python-3/Doc/license.rst", b"others' terms"),
        member("Python-3/Lib/site/LICENSE", b"not asked for"),
    )  # fmt: skip
    zlib = tar(
        where / "zlib.tar.gz", member("z/zlib.h", b"/* zlib's terms */\n#define Z 1 /* no */"), mode="w:gz"
    )
    libc = deb(where / "wasi-libc_1_all.deb", member("./usr/share/doc/wasi-libc/copyright", b"libc's terms"))
    runtime = deb(
        where / "libclang-rt-22-dev-wasm32_22_all.deb",
        member("./usr/share/doc/libclang-rt-22-dev-wasm32/copyright", b"builtins' terms"),
    )
    zones = where / "tzdata-1-py3-none-any.whl"
    with zipfile.ZipFile(zones, "w") as archive:
        archive.writestr("tzdata-1.dist-info/licenses/LICENSE", b"zones' terms")
        archive.writestr("tzdata/LICENSE", b"not asked for")
    made = next(recipes(load_manifest(sources)))
    toolchain = replace(
        made.toolchain, packages=(*made.toolchain.packages, _pin(runtime)), wasi_libc=_pin(libc)
    )
    ((pin, release),) = made.libraries
    return replace(
        made,
        cpython=replace(made.cpython, files=(_pin(python),)),
        libraries=((pin, replace(release, files=(_pin(zlib),))),),
        zones=replace(made.zones, files=(_pin(zones),)),
        toolchain=toolchain,
    )


def _pin(path: Path) -> PinnedFile:
    content = path.read_bytes()
    return PinnedFile(hashlib.sha256(content).hexdigest(), len(content), f"pool/{path.name}", ())


@pytest.fixture
def store(tmp_path: Path) -> SourceStore:
    return SourceStore(tmp_path / "downloads", local=tmp_path / "archives", mirrors=lambda: ())


def test_each_text_is_out_of_its_own_archive_and_the_notice_lists_all(
    recipe: Recipe, store: SourceStore
) -> None:
    found = dict(licence_texts(recipe, store))
    notice = found.pop("NOTICE.md").decode()
    assert found == {
        "cpython/LICENSE.txt": b"python's terms",
        "cpython/Doc-license.rst": b"others' terms",
        "zlib/zlib.h.txt": b"/* zlib's terms */\n",
        "zones/tzdata-1.dist-info-licenses-LICENSE.txt": b"zones' terms",
        "wasi-libc/wasi-libc-copyright.txt": b"libc's terms",
        "compiler-rt/libclang-rt-22-dev-wasm32-copyright.txt": b"builtins' terms",
    }
    for name in found:
        assert f"`{name}`" in notice
    assert "| zlib | 1.3.2 | Zlib | `zlib/zlib.h.txt` |" in notice
    assert "| compiler-rt | 22 | Apache-2.0 WITH LLVM-exception |" in notice


def test_an_ingredient_of_which_nothing_is_said_is_an_error(
    recipe: Recipe, store: SourceStore, sources: Path
) -> None:
    (sources / "licences.toml").write_text(TABLE.replace('of = "zlib"', 'of = "other"'))
    with pytest.raises(GuestBuildError, match="says nothing of: zlib"):
        dict(licence_texts(recipe, store))


def test_a_text_that_the_archive_lacks_is_an_error(recipe: Recipe, store: SourceStore, sources: Path) -> None:
    (sources / "licences.toml").write_text(TABLE.replace('"Doc/license.rst"', '"Doc/none.rst"'))
    with pytest.raises(GuestBuildError, match=r"python\.tar\.xz has no Doc/none\.rst"):
        dict(licence_texts(recipe, store))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "format = 2", "format: must be 1"),
        ('spdx = "Zlib"\n', "", r"ingredient\[1\]\.spdx: must be a str"),
        ('spdx = "Zlib"', 'spdx = "Zlib"\nmore = 1', r"ingredient\[1\]\.more: unknown key"),
    ],
)
def test_a_mistake_in_the_table_names_its_key(sources: Path, old: str, new: str, says: str) -> None:
    (sources / "licences.toml").write_text(TABLE.replace(old, new))
    with pytest.raises(ArtifactError, match=says):
        licence_entries(sources)


def test_every_ingredient_of_every_guest_of_ours_has_an_entry_and_no_other_has() -> None:
    manifest = load_manifest()
    made_of = [ingredients(recipe) for pin in manifest.pythons for recipe in recipes(manifest, pin.series)]
    assert set().union(*made_of) == licence_entries(manifest.folder).keys()
    assert all(files for found in made_of for _, files in found.values())
