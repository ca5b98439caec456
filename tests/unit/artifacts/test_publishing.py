"""A folder takes another's place whole, and whoever is killed meanwhile loses nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.artifacts.publishing import publish

KILLED = 9
# Publishes as a process that is killed at the step with the given number of those that move something.
PROGRAM = f"""
import os, sys
from pathlib import Path
from rlm_wasm.artifacts.publishing import publish

left = int(sys.argv[2])

def killing(event, args):
    global left
    if event in ("os.rename", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os._exit({KILLED})

def fill(folder):
    (folder / "file").write_text("new")

sys.addaudithook(killing)
publish(Path(sys.argv[1]), fill, keep=("images",))
"""


def old_folder(parent: Path) -> Path:
    folder = parent / "abc"
    (folder / "images" / "mine").mkdir(parents=True)
    (folder / "images" / "mine" / "packages.img").write_text("memory")
    (folder / "file").write_text("old")
    (folder / "other").write_text("old")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill_new(folder: Path) -> None:
    (folder / "file").write_text("new")


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_new_folder_takes_the_place_of_the_old_and_nothing_else_is_left(
    tmp_path: Path, mode: int
) -> None:
    folder = old_folder(tmp_path)
    umask = os.umask(0o077)
    try:
        publish(folder, fill_new, mode=mode)
    finally:
        os.umask(umask)
    assert contents(tmp_path) == {"abc/file": "new"}
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_what_is_kept_goes_over_unless_the_new_one_has_its_own(tmp_path: Path) -> None:
    folder = old_folder(tmp_path)
    publish(folder, fill_new, keep=("images", "none"))
    assert contents(tmp_path) == {"abc/file": "new", "abc/images/mine/packages.img": "memory"}

    def with_images(making: Path) -> None:
        (making / "images").mkdir()

    publish(folder, with_images, keep=("images",))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError("full")])
def test_who_cannot_fill_it_leaves_what_was_there(tmp_path: Path, stop: BaseException) -> None:
    folder = old_folder(tmp_path)
    before = contents(tmp_path)

    def failing(making: Path) -> None:
        fill_new(making)
        raise stop

    with pytest.raises(type(stop)):
        publish(folder, failing, keep=("images",))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", range(1, 6))
def test_whoever_is_killed_leaves_the_old_one_or_the_new_one_and_what_is_kept(
    tmp_path: Path, step: int
) -> None:
    folder = old_folder(tmp_path)
    old = contents(folder)
    new = {"file": "new", "images/mine/packages.img": "memory"}
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(step)], check=False)
    assert ended.returncode == KILLED

    def failing(making: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(folder, failing, keep=("images",))
    assert contents(folder) in (old, new)
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]
    publish(folder, fill_new, keep=("images",))
    assert contents(tmp_path) == {f"abc/{name}": text for name, text in new.items()}


def test_a_name_that_begins_alike_is_another(tmp_path: Path) -> None:
    (tmp_path / ".old.abc-d.000000000000").mkdir()
    (tmp_path / ".making.abc-d.000000000000").mkdir()
    publish(tmp_path / "abc", fill_new)
    assert len(list(tmp_path.iterdir())) == 3
