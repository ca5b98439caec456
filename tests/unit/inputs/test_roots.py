"""Folders that files may be named in: nothing outside them is opened, however it is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlm_wasm.api.inputs import Inputs
from rlm_wasm.errors import InputError, UsageError
from rlm_wasm.inputs.folder_choice import FolderChoice
from rlm_wasm.inputs.roots import Roots
from rlm_wasm.policy.model import Policy

SECRET = "nobody may read this"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with files in it, beside one that is none of it."""
    folder, other = tmp_path / "data", tmp_path / "database"
    (folder / "sub").mkdir(parents=True)
    other.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.json").write_text('{"b": 1}')
    (other / "secret.txt").write_text(SECRET)
    (folder / "link.txt").symlink_to(other / "secret.txt")
    (folder / "links").symlink_to(other)
    (folder / ".env").write_text(SECRET)
    os.mkfifo(folder / "pipe")
    return folder


def read(roots: Roots, *paths: str) -> Inputs:
    pairs: list[tuple[str | None, str]] = [(None, roots.placed(path)) for path in paths]
    return Inputs.read_pairs(
        Policy.builtin("standard"),
        pairs,
        kind="auto",
        encoding=None,
        choice=FolderChoice(),
        opener=roots.open,
    )


def test_files_folders_and_patterns_below_a_root_are_read_as_always(root: Path) -> None:
    roots = Roots([str(root)])
    found = read(roots, "a.txt", f"{root}/sub/b.json", "sub", "**/*.txt")
    assert found["context"] == "a"
    assert [item.kind for item in found.items_read] == ["text", "json", "folder", "folder"]
    assert [file.path for file in found.items_read[3].files] == ["a.txt"]
    assert "a link" in found.items_read[3].left_out


@pytest.mark.threat("T-401")
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{root}/../database/secret.txt",
        "{other}/secret.txt",
        "{root}base/secret.txt",
        "../database/secret.txt",
        "sub/../../database/secret.txt",
        "{other}",
        "{other}/*.txt",
        "a.txt\0",
        "",
        ".env",
        "{root}/sub/.git/config",
    ],
)
def test_a_path_outside_or_in_something_private_is_refused_by_its_text(root: Path, path: str) -> None:
    roots = Roots([str(root)])
    with pytest.raises(UsageError):
        roots.placed(path.format(root=root, other=root.parent / "database"))


@pytest.mark.threat("T-401")
@pytest.mark.parametrize(
    "path", ["link.txt", "links", "links/secret.txt", "links/*.txt", "pipe", "-", "no.txt"]
)
def test_no_link_is_followed_and_no_pipe_is_read(root: Path, path: str) -> None:
    roots = Roots([str(root)])
    with pytest.raises(InputError) as caught:
        read(roots, path)
    assert SECRET not in str(caught.value)


@pytest.mark.threat("T-401")
def test_what_is_put_in_the_place_of_a_part_after_the_check_leads_nowhere_else(root: Path) -> None:
    roots = Roots([str(root)])
    (root / "sub" / "secret.txt").write_text("not secret")
    place = roots.placed("sub/secret.txt")
    (root / "sub").rename(root / "was")
    (root / "sub").symlink_to(root.parent / "database")
    with pytest.raises(OSError, match="no link is followed"):
        roots.open(place, os.O_RDONLY)


@pytest.mark.threat("T-401")
def test_a_root_that_is_renamed_is_still_what_was_opened(root: Path) -> None:
    roots = Roots([str(root)])
    root.rename(root.parent / "moved")
    root.symlink_to(root.parent / "database")
    with pytest.raises(FileNotFoundError):
        roots.open(f"{root}/secret.txt", os.O_RDONLY)
    os.close(roots.open(f"{root}/a.txt", os.O_RDONLY))


def test_with_several_roots_a_name_says_which(root: Path) -> None:
    roots = Roots([str(root), str(root.parent / "database")])
    assert roots.placed("database/secret.txt") == f"{root.parent}/database/secret.txt"
    assert roots.placed("a.txt") == f"{root}/a.txt"
    assert roots.names == (str(root), f"{root.parent}/database")


def test_a_root_that_is_no_folder_is_told(root: Path) -> None:
    for name in ("a.txt", "none"):
        with pytest.raises(InputError, match="cannot read"):
            Roots([str(root / name)])


def test_a_root_may_be_named_through_a_link_and_files_by_either_name(root: Path) -> None:
    named = root.parent / "named"
    named.symlink_to(root)
    roots = Roots([str(named)])
    for path in (f"{named}/a.txt", f"{root}/a.txt", "a.txt"):
        assert read(roots, path)["context"] == "a"


def test_a_large_file_stays_where_it_is_and_is_read_through_the_root(root: Path) -> None:
    policy = Policy.builtin("standard")
    policy = policy.replace(sandbox={"context_bytes_max": 1 << 20, "whole_context_chars_max": 0})
    with (root / "large.txt").open("wb") as file:
        file.truncate(2 << 20)
    (root / "large.txt").write_bytes(b"x" * (2 << 20))
    roots = Roots([str(root)])
    found = Inputs.read_pairs(
        policy,
        [(None, roots.placed("large.txt"))],
        kind="auto",
        encoding=None,
        choice=FolderChoice(),
        opener=roots.open,
    )
    (root / "large.txt").unlink()
    value = found["context"]
    assert not isinstance(value, str | bytes | dict | list)
    assert value.read(5, 3) == b"xxx"  # type: ignore[union-attr]
