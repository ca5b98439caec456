"""The lock of an image: written as it is read, and refused where it says something that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.artifacts.installed import lock_file
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.images.lock import ImageLock, LockedPackage, lock_text, read_lock
from rlm_wasm.images.resolution import locked_wheel
from tests.support.wheels import make_wheel

SHA = "0123456789abcdef" * 4
WHEEL = LockedPackage(
    "thing", "1.0", 'a "licence" \x7f', (), PinnedFile(SHA, 10, None, (), "thing-1.0-py3-none-any.whl")
)
SOURCES = LockedPackage(
    "other",
    "2.0",
    "MIT",
    ("other",),
    PinnedFile(SHA, 20, "pool/main/o/other.tar.gz", ("https://o.example/o.tgz",)),
)
LOCK = ImageLock("base", ("thing", "other.part"), (WHEEL, SOURCES))


def written(folder: Path, text: str) -> Path:
    path = folder / "lock.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, lock_text(LOCK))
    assert read_lock(path) == (LOCK, path.read_bytes())


@pytest.mark.parametrize(
    "tag",
    ["py3-none-any", "1-py3-none-any", "2a-py2.py3-none-any", "py2.py3.py36-none-any", "py3.py2-none-any"],
)
def test_a_lock_has_whatever_wheel_an_image_takes(tmp_path: Path, tag: str) -> None:
    package = locked_wheel(make_wheel(tmp_path, {"thing/__init__.py": b""}, version="1!1.0+local.1", tag=tag))
    lock = ImageLock("base", (), (package,))
    assert read_lock(written(tmp_path, lock_text(lock)))[0] == lock


@pytest.mark.parametrize("name", ["data"])
def test_our_own_locks_are_whole(name: str) -> None:
    path = lock_file(guest_dir(), name)
    lock, text = read_lock(path)
    assert lock.packages
    assert lock.preload
    assert lock_text(lock).encode() == text


WRONG = [
    ("format = 1", "format = 2", "format"),
    ('guest = "base"', 'guest = "other"', "guest"),
    ('guest = "base"', 'guest = "base"\nmore = 1', "more"),
    ('"other.part"', '"other; import os"', "preload"),
    ('"thing-1.0-py3-none-any.whl"', '"thing-1.0-cp314-cp314-any.whl"', "wheel"),
    ('"thing-1.0-py3-none-any.whl"', '"thing-1.0-1/../x-py3-none-any.whl"', "wheel"),
    ('"thing-1.0-py3-none-any.whl"', '"../thing-1.0-py3-none-any.whl"', "wheel"),
    (SHA, SHA[1:], "sha256"),
    ("bytes = 10", "bytes = 0", "bytes"),
    ('modules = ["other"]\n', "", "modules"),
    ("pool/main/o", "pool/../o", "pool"),
    ('name = "thing"', 'name = 1', "name"),
    ("[[package]]", "[[package", "cannot be read"),
]  # fmt: skip


@pytest.mark.threat("T-270")
@pytest.mark.parametrize(
    ("old", "new", "key"), [pytest.param(*row, id=f"{row[2]}-{i}") for i, row in enumerate(WRONG)]
)
def test_a_lock_that_says_what_cannot_be_is_refused_by_its_key(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    text = lock_text(LOCK)
    assert old in text
    with pytest.raises(ArtifactError, match=key):
        read_lock(written(tmp_path, text.replace(old, new, 1)))


def test_a_lock_that_is_not_there_or_too_large_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read as a lock"):
        read_lock(tmp_path / "none.toml")
    with pytest.raises(ArtifactError, match="larger than"):
        read_lock(written(tmp_path, "#" * (1 << 20) + "\n"))
