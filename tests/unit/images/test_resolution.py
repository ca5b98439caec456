"""What is asked of pip, and that nothing of what it finds runs here: by the real pip, its index a folder."""

from __future__ import annotations

import hashlib
import sys
import venv
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError, UsageError
from rlm_wasm.images.lock import LockedPackage
from rlm_wasm.images.resolution import checked_wanted, resolve
from tests.support.pip_index import make_false_pip, make_sdist, pip_index
from tests.support.wheels import make_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of."""
    return pip_index(tmp_path / "index", monkeypatch)


def resolved(tmp_path: Path, *wanted: str) -> tuple[tuple[LockedPackage, ...], tuple[str, ...]]:
    for name in ("offers", "found"):
        (tmp_path / name).mkdir()
    return resolve(wanted, "3.14", tmp_path / "offers", {}, tmp_path / "found")


def test_what_a_package_needs_comes_with_it_and_what_the_guest_has_does_not(
    tmp_path: Path, index: Path
) -> None:
    make_wheel(index, {"other/__init__.py": b""}, "other")
    make_wheel(index, {"tzdata/__init__.py": b""}, "tzdata")
    path = make_wheel(index, {"thing/__init__.py": b""}, needs=["other>=1", "tzdata"])
    packages, left_out = resolved(tmp_path, "thing==1.0")
    assert [(package.name, package.version) for package in packages] == [("other", "1.0"), ("thing", "1.0")]
    assert packages[1].file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert left_out == ("tzdata",)


def test_a_package_that_is_nowhere_is_one_line_with_what_pip_says(tmp_path: Path, index: Path) -> None:
    with pytest.raises(GuestBuildError, match=r"^no wheels of pure Python for absent: [^\n]*absent[^\n]*$"):
        resolved(tmp_path, "absent")


def test_a_python_without_pip_says_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(
        GuestBuildError, match=r"^the wheels of packages are found by pip, and \S+/python has no pip$"
    ):
        resolved(tmp_path, "thing")


@pytest.mark.threat("T-270")
def test_a_wheel_that_points_at_sources_has_none_of_their_code_run(tmp_path: Path, index: Path) -> None:
    trace = tmp_path / "trace"
    sources = make_sdist(tmp_path / "arrays-1.0.tar.gz", trace, complete=True)
    make_wheel(index, {"thing/__init__.py": b""}, needs=[f"arrays @ {sources.as_uri()}"])
    with pytest.raises(GuestBuildError, match=r"^no wheels of pure Python for thing: [^\n]*may not be built"):
        resolved(tmp_path, "thing")
    assert not trace.exists()


@pytest.mark.threat("T-270")
def test_a_wheel_that_points_at_a_repository_has_no_program_run(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\ntouch {trace}\n", encoding="utf-8")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=":")
    make_wheel(index, {"thing/__init__.py": b""}, needs=["arrays @ git+https://localhost:9/arrays"])
    with pytest.raises(GuestBuildError, match=r"^no wheels of pure Python for thing: [^\n]+$"):
        resolved(tmp_path, "thing")
    assert not trace.exists()


@pytest.mark.threat("T-270")
def test_pip_is_not_the_one_of_the_current_folder(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, {"thing/__init__.py": b""})
    make_false_pip(tmp_path, tmp_path / "trace")
    monkeypatch.chdir(tmp_path)
    assert [package.name for package in resolved(tmp_path, "thing")[0]] == ["thing"]
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "wanted", ["thing", "thing==1.0", "Thing.Of_test[more,less]>=1,<2", "zip", "tar==1", "thing.whlx"]
)
def test_a_name_with_versions_is_what_pip_may_be_asked_for(wanted: str) -> None:
    assert checked_wanted(wanted) == wanted


@pytest.mark.threat("T-270")
@pytest.mark.parametrize(
    "wanted",
    [
        "", "-r", "thing -r x", "../thing", "./thing", "thing @ file:///x", "thing;x", "a\n", "git+https://x",
        "arrays-1.0.tar.gz", "thing.whl", "thing.ZIP", "thing.tar", "thing.tgz", "thing.tar.xz[more]",
        "thing.txz", "thing.tbz", "thing.tlz", "thing.tar.lzma", "thing==1.zip", "thing[more]==1.whl",
    ],
)  # fmt: skip
def test_no_path_address_option_or_file_is_asked_of_pip(wanted: str) -> None:
    with pytest.raises(UsageError, match="is not a package"):
        checked_wanted(wanted)
