"""Packages out of their sources: the modules that were asked for, and nothing of an archive that is odd."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.images import source_package
from rlm_wasm.images.source_package import read_sources
from rlm_wasm.images.wheel import Wheel
from tests.support.pip_index import write_tar

SOURCES = {
    "thing-1.0/setup.py": b"raise SystemExit\n",
    "thing-1.0/lib/thing/__init__.py": b"answer = 42\n",
    "thing-1.0/lib/thing/part/more.pyi": b"",
    "thing-1.0/lib/thing/fast.c": b"int",
    "thing-1.0/lib/thing_too/__init__.py": b"",
    "thing-1.0/tests/test_thing.py": b"",
}


def read(path: Path) -> Wheel:
    return read_sources(path, "thing", "1.0", "MIT", ("thing",))


@pytest.mark.parametrize("root", ["", "src/", "lib/"])
def test_the_modules_that_were_asked_for_are_taken_as_they_lie(tmp_path: Path, root: str) -> None:
    files = {name.replace("/lib/", f"/{root}"): data for name, data in SOURCES.items()}
    wheel = read(write_tar(tmp_path / "thing.tar.gz", files))
    assert {*wheel.files} == {"thing/__init__.py", "thing/part/more.pyi", "thing-1.0.dist-info/METADATA"}
    assert wheel.files["thing/__init__.py"] == b"answer = 42\n"
    assert (wheel.name, wheel.version, wheel.licence) == ("thing", "1.0", "MIT")


@pytest.mark.threat("T-270")
@pytest.mark.parametrize("name", ["../outside.py", "/etc/x.py", "thing-1.0/../../x.py", "thing-1.0/a\nb.py"])
def test_a_name_that_leads_out_of_the_folder_refuses_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestBuildError, match="is unsafe"):
        read(write_tar(tmp_path / "thing.tar.gz", {**SOURCES, name: b""}))


@pytest.mark.threat("T-270")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_regular_file_is_not_taken(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "thing.tar", SOURCES)
    with tarfile.open(path, "a:") as archive:
        member = tarfile.TarInfo("thing-1.0/lib/thing/odd.py")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "thing/odd.py" not in read(path).files


@pytest.mark.threat("T-270")
@pytest.mark.parametrize(
    ("limit", "value"),
    [("FILES_MAX", 3), ("FILE_BYTES_MAX", 11), ("UNPACKED_BYTES_MAX", 20), ("WHEEL_BYTES_MAX", 100)],
)
def test_sizes_and_counts_end_where_they_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    path = write_tar(tmp_path / "thing.tar.gz", SOURCES)
    read(path)
    monkeypatch.setattr(source_package, limit, value)
    with pytest.raises(GuestBuildError, match=r"holds more than|is larger than"):
        read(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 150])
def test_an_archive_that_is_cut_is_one_line(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path / "thing.tar.gz", SOURCES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GuestBuildError, match="is damaged"):
        read(path)
