"""The shipped manifest is complete, and a mistake in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.guestbuild.manifest import load_manifest
from tests.unit.guestbuild.support import guest_folder


def test_the_shipped_manifest_pins_two_pythons_and_two_toolchains() -> None:
    manifest = load_manifest()
    assert [pin.series for pin in manifest.pythons] == ["3.14", "3.13"]
    assert len(manifest.toolchains) == 2
    assert manifest.boundary.imports == ("call", "clock", "emit", "entropy", "read", "sleep", "take")


def test_every_shipped_source_has_an_origin_beside_a_local_file() -> None:
    manifest = load_manifest()
    files = [f for pin in (*manifest.pythons, *manifest.zones) for f in pin.files]
    files += [f for pin in manifest.libraries for release in pin.releases for f in release.files]
    files += [f for pin in manifest.toolchains for f in (*pin.packages, pin.wasi_libc)]
    files += [each.file for each in (*manifest.host_tools, *manifest.host_libraries)]
    assert all(file.pool or file.urls or file.wheel for file in files)
    assert all(any(file.urls for file in pin.files) for pin in manifest.pythons)


def test_a_small_manifest_is_read(tmp_path: Path) -> None:
    manifest = load_manifest(guest_folder(tmp_path))
    assert manifest.python("3.14").files[0].name == "python.tar.xz"
    assert manifest.toolchains[0].wasi_libc.size_bytes == 4


def test_an_unknown_series_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no CPython 3\.9 is pinned \(there is: 3\.14\)"):
        load_manifest(guest_folder(tmp_path)).python("3.9")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("format = 1", "format = 2", "format must be 1"),
        ("format = 1", "format = 1\nextra = 1", "extra: unknown key"),
        ("format = 1", "format 1", "Expected '='"),
        ('series = "3.14"', 'series = 3', r"python\[0\]\.series: must be a str"),
        ('config_site = "Tools/site"', 'config_sites = "x"', r"python\[0\]\.config_sites: unknown key"),
        ("bytes = 6", "bytes = 0", "must be greater than 0"),
        ("bytes = 6", "bytes = true", "must be a int"),
        ('pool = "pool/main/p/python.tar.xz"', 'pool = "../../etc/passwd"', "must be a path below pool/"),
        ('pool = "pool/main/p/python.tar.xz"', 'pool = "pool/../../etc"', "must be a path below pool/"),
        ('pool = "pool/main/p/python.tar.xz"', 'urls = ["http://x/y"]', "must be https"),
        ('pool = "pool/main/p/python.tar.xz", ', "", "needs a pool path, a url or the name"),
        ('pool = "pool/main/t/tzdata.whl"', 'wheel = "x-1-cp311-cp311-linux.whl"', "a wheel of pure Python"),
        ('pool = "pool/main/t/tzdata.whl"', 'wheel = "../x-1-py3-none-any.whl"', "a wheel of pure Python"),
        ('imports = ["call", "take"]', 'imports = ["take", "call"]', "must be sorted"),
        ('imports = ["call", "take"]', 'imports = ["call", "call"]', "each name once"),
        ('exclude = ["tkinter"]', "exclude = [1]", r"stdlib\.exclude: must be a list of strings"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        load_manifest(guest_folder(tmp_path, {old: new}))


def test_a_hash_must_be_a_sha256(tmp_path: Path) -> None:
    folder = guest_folder(tmp_path)
    path = folder / "manifest.toml"
    text = path.read_text()
    path.write_text(text.replace('sha256 = "', 'sha256 = "0', 1))
    with pytest.raises(ArtifactError, match="64 hexadecimal digits"):
        load_manifest(folder)
