"""The package `test` out of a tarball."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from rlm_wasm.conformance.tests_of_cpython import read_names, read_test_files
from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import guest_dir
from tests.unit.guestbuild.support import member, tar


def test_the_modules_and_all_that_they_need(tmp_path: Path) -> None:
    names = [
        "Python-3/Lib/json/__init__.py",
        "Python-3/Lib/test/__init__.py",
        "Python-3/Lib/test/test_one.py",
        "Python-3/Lib/test/test_two/__init__.py",
        "Python-3/Lib/test/test_two/test_inner.py",
        "Python-3/Lib/test/test_data/file.txt",
        "Python-3/Lib/test/support/__init__.py",
        "Python-3/Lib/test/wheeldata/large.whl",
    ]
    files = read_test_files(tar(tmp_path / "p.tar", *(member(name, name.encode()) for name in names)))
    assert files.modules == ("test_one", "test_two")
    with zipfile.ZipFile(io.BytesIO(files.package)) as package:
        assert package.namelist() == [name.removeprefix("Python-3/Lib/") for name in names[1:-1]]
        assert package.read("test/test_one.py") == b"Python-3/Lib/test/test_one.py"


def test_the_same_tarball_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tar(tmp_path / "p.tar", member("P/Lib/test/test_one.py", b"x"))
    assert read_test_files(path) == read_test_files(path)


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_tarball_without_tests_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "p.tar"
    if content is None:
        tar(path, member("P/Lib/json.py", b""))
    else:
        path.write_bytes(content)
    with pytest.raises(GuestBuildError, match=r"p\.tar"):
        read_test_files(path)


def test_the_quick_choice_names_each_module_once() -> None:
    names = (guest_dir() / "conformance" / "quick.txt").read_text().split()
    chosen = read_names(guest_dir() / "conformance" / "quick.txt")
    assert len([name for name in names if name.startswith("test_")]) == len(chosen)
