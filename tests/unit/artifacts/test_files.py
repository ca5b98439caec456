"""Files that must be what they were."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.artifacts.files import read_owned, write_private
from rlm_wasm.artifacts.paths import private_dir
from rlm_wasm.errors import ArtifactError


def test_what_was_written_is_read_and_only_the_owner_may(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, [b"one", b"", b"two"])
    assert read_owned(path, bytes_max=6) == b"onetwo"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_writing_again_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, [b"long contents"])
    write_private(path, [b"short"])
    assert path.read_bytes() == b"short"


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_owned(tmp_path / "none", bytes_max=1)


def _symlink(path: Path) -> None:
    (path.parent / "target").write_bytes(b"x")
    path.symlink_to(path.parent / "target")


def _writable(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(b"x")
        path.chmod(mode)

    return make


def _foreign(path: Path) -> None:
    path.write_bytes(b"x")
    os.chown(path, 12_345, -1)


@pytest.mark.threat("T-016")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_symlink, "cannot open"),
        (_writable(0o620), "written by another"),
        (_writable(0o602), "written by another"),
        (lambda path: path.write_bytes(b"x" * 11), "at most 10"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        pytest.param(
            _foreign,
            "not a regular file of this user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
    ],
)
def test_a_file_that_others_may_have_made_is_refused(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(ArtifactError, match=says):
        read_owned(path, bytes_max=10)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """The kernel refuses to write (a limit on file size stands for a full disk)."""
    write_private(tmp_path / "file", [b"old"])
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "from pathlib import Path; from rlm_wasm.artifacts.files import write_private\n"
        "from rlm_wasm.errors import ArtifactError\n"
        "try: write_private(Path(sys.argv[1]), [b'new contents'])\n"
        "except ArtifactError as error: print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, text=True, timeout=60
    )
    assert "cannot write" in ended.stdout, ended.stderr
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.threat("T-016")
def test_a_folder_others_may_write_is_refused(tmp_path: Path) -> None:
    made = private_dir(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o770)
    with pytest.raises(ArtifactError, match="written by another user"):
        private_dir(made)
    with pytest.raises(ArtifactError, match="cannot use the folder"):
        private_dir(Path("/dev/null/x"))
