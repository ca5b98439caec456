"""A folder as one input: what is taken of it, what is left out and said, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.errors import InputError, InputTooLarge, UsageError
from rlm_wasm.folder_text import FolderText
from rlm_wasm.inputs import folder as folder_module
from rlm_wasm.inputs.file_input import Reading
from rlm_wasm.inputs.folder_choice import FolderChoice
from rlm_wasm.inputs.folder_input import read_folder_files, told_of_left_out
from rlm_wasm.inputs.given import InputRead
from rlm_wasm.inputs.kinds import InputKind
from rlm_wasm.inputs.place import read_input_at
from rlm_wasm.limits import INPUT_IGNORE_STEPS_MAX, InputLimits

LIMITS = InputLimits(ratio_max=100, json_values_max=1_000, files_max=50, entries_max=200, depth_max=8)
READING = Reading(10_000, LIMITS, guest_files_max=100)


def fill(folder: Path, files: dict[str, str | bytes]) -> Path:
    for path, data in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def read(place: Path | str, reading: Reading = READING, **choice: object) -> InputRead:
    return read_input_at("context", str(place), replace(reading, choice=FolderChoice(**choice)))  # type: ignore[arg-type]


def texts(found: InputRead) -> dict[str, str]:
    assert isinstance(found.value, FolderText)
    assert json.loads(found.value) == found.value.files
    return dict(found.value.files)


def told(found: InputRead) -> str:
    return told_of_left_out(found.source, len(found.files), found.left_out)


def test_the_texts_of_its_files_by_their_paths_in_the_order_of_the_names(tmp_path: Path) -> None:
    docs = fill(
        tmp_path / "docs",
        {
            "b.txt": "two",
            "a/x.csv": "n;m\n1;2\n",
            "a/y.json": "[1]",
            "c.txt.gz": gzip.compress(b"four", mtime=0),
        },
    )
    found = read(docs)
    assert list(texts(found).items()) == [
        ("a/x.csv", "n;m\n1;2\n"),
        ("a/y.json", "[1]"),
        ("b.txt", "two"),
        ("c.txt.gz", "four"),
    ]
    assert (found.kind, found.file, found.source, told(found)) == ("folder", "docs", str(docs), "")
    assert [(file.path, file.packing) for file in found.files][-1] == ("c.txt.gz", "gzip")
    assert isinstance(found.value, FolderText)
    assert (found.value.type_name, found.value.length) == ("dict", 4)


def test_a_path_with_wildcards_is_the_folder_of_what_it_matches(tmp_path: Path) -> None:
    fill(tmp_path / "docs", {"a.csv": "1", "b.txt": "2", "sub/c.csv": "3", ".d.csv": "4"})
    assert list(texts(read(tmp_path / "docs" / "*.csv"))) == ["a.csv"]
    assert list(texts(read(f"{tmp_path}/docs/**/*.csv"))) == ["a.csv", "sub/c.csv"]
    # One that is called like a pattern is that file.
    (tmp_path / "docs" / "[x].csv").write_text("5")
    assert read(tmp_path / "docs" / "[x].csv").value == "5"
    with pytest.raises(InputError, match="has no file that could be read as text"):
        read(tmp_path / "docs" / "*.nothing")


@pytest.mark.threat("T-215")
def test_what_is_private_or_ignored_is_left_out_unless_asked(tmp_path: Path) -> None:
    docs = fill(
        tmp_path / "docs",
        {
            ".git/config": "token",
            ".env": "KEY=1",
            ".ENV.local": "KEY=2",
            "sub/.envrc": "KEY=3",
            ".gitignore": "*.log\n!keep.log\nsecret/\n",
            "a.log": "a",
            "keep.log": "b",
            "secret/x": "c",
            "sub/.gitignore": "!a.log\r\n/only-here\r\n",
            "sub/a.log": "d",
            "sub/only-here": "e",
            "only-here": "f",
        },
    )
    found = read(docs)
    assert list(texts(found)) == [".gitignore", "keep.log", "only-here", "sub/.gitignore", "sub/a.log"]
    assert told(found) == (
        f"{docs}: 5 files taken; left out: .ENV.local and 3 more: private (--all takes it); "
        "a.log and 2 more: named by .gitignore (--all takes it)"
    )
    assert len(texts(read(docs, everything=True))) == 12


def test_include_and_exclude_are_patterns_of_paths(tmp_path: Path) -> None:
    docs = fill(tmp_path / "docs", {"a.csv": "1", "b.txt": "2", "sub/c.csv": "3", "sub/old/d.csv": "4"})
    assert list(texts(read(docs, include=("*.csv",), exclude=("old/",)))) == ["a.csv", "sub/c.csv"]
    assert list(texts(read(docs, include=("sub/",)))) == ["sub/c.csv", "sub/old/d.csv"]
    with pytest.raises(UsageError, match="--include is no pattern: line 1 is longer than"):
        FolderChoice(include=("x" * 2_000,))


@pytest.mark.threat("T-215")
def test_nothing_outside_is_reached_and_nothing_is_waited_for(tmp_path: Path) -> None:
    fill(tmp_path / "outside", {"secret": "s"})
    docs = fill(tmp_path / "docs", {"a": "1"})
    (docs / "file-link").symlink_to(tmp_path / "outside" / "secret")
    (docs / "folder-link").symlink_to(tmp_path / "outside")
    (docs / "loop").symlink_to(docs)
    (docs / "dangling").symlink_to("nothing")
    os.mkfifo(docs / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(docs)  # the path of a socket is short
        try:
            listening.bind("sock")
        finally:
            os.chdir(here)
        found = read(docs)
    assert texts(found) == {"a": "1"}
    assert told(found) == (
        f"{docs}: 1 file taken; left out: dangling and 3 more: a link; "
        "fifo and 1 more: a socket, pipe or device"
    )


@pytest.mark.threat("T-215")
@pytest.mark.parametrize("becomes", ["link", "fifo", "gone", "folder"])
def test_what_is_put_in_the_place_of_a_file_meanwhile_is_not_read(
    tmp_path: Path, becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = fill(tmp_path / "outside", {"secret": "s"}) / "secret"
    docs = fill(tmp_path / "docs", {"a": "1", "b": "2"})
    real_open = os.open

    def swapping(path: str, flags: int, *args: int, **more: int | None) -> int:
        if path == "a" and "dir_fd" in more:
            (docs / "a").unlink(missing_ok=True)
            match becomes:
                case "link":
                    (docs / "a").symlink_to(secret)
                case "fifo":
                    os.mkfifo(docs / "a")
                case "folder":
                    (docs / "a").mkdir()
        return real_open(path, flags, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module.os, "open", swapping)
    found = read(docs)
    monkeypatch.undo()
    assert texts(found) == {"b": "2"}
    assert "a: unreadable, gone, or changed while it was read" in told(found)


def test_a_file_that_changes_while_it_is_read_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = fill(tmp_path / "docs", {"a": "1" * 100, "b": "2"})
    real_read = os.read

    def writing(descriptor: int, length: int) -> bytes:
        data = real_read(descriptor, length)
        if data.startswith(b"1"):
            (docs / "a").write_text("3")
        return data

    monkeypatch.setattr(folder_module.os, "read", writing)
    found = read(docs)
    monkeypatch.undo()
    assert texts(found) == {"b": "2"}
    assert "a: unreadable, gone, or changed" in told(found)


def test_what_is_no_text_is_left_out_and_said_before_it_is_read(tmp_path: Path) -> None:
    docs = fill(
        tmp_path / "docs", {"a.txt": "1", "b.bin": b"\0" * 20_000, "c.txt": b"\xff", "d.gz": b"plain"}
    )
    found = read(docs)
    assert texts(found) == {"a.txt": "1"}
    assert told(found).endswith(
        "left out: b.bin and 1 more: no text (--encoding names another encoding; given by itself, "
        "--bytes takes it); d.gz: damaged"
    )
    only_binary = fill(tmp_path / "bin", {"x": b"\0"})
    with pytest.raises(
        InputError, match=r"no file that could be read as text \(left out: x: no text \(--enc"
    ):
        read(only_binary)


@pytest.mark.threat("T-215")
@pytest.mark.parametrize(
    ("files", "limits", "more", "key"),
    [
        ({f"{n}": "" for n in range(51)}, {}, {}, "inputs.files_max"),
        ({f"{n}/x": "" for n in range(50)}, {}, {}, "sandbox.files_max"),
        ({f"{n}.log": "" for n in range(201)} | {".gitignore": "*.log"}, {}, {}, "inputs.entries_max"),
        ({".gitignore": "x\n" * 300, "a": ""}, {}, {}, "inputs.entries_max"),
        ({"a/" * 8 + "x": "deep"}, {}, {}, "inputs.depth_max"),
        ({"a": "x" * 6_000, "b": "x" * 6_000}, {}, {}, "sandbox.context_bytes_max"),
        ({"a": "ä" * 3_000}, {}, {}, "sandbox.context_bytes_max"),
        (
            {"a.gz": gzip.compress(bytes(3_000_000), mtime=0)},
            {},
            {"bytes_max": 9_000_000},
            "inputs.ratio_max",
        ),
    ],
)
def test_a_folder_of_too_much_is_refused_in_one_line_that_names_the_key(
    tmp_path: Path, files: dict[str, str | bytes], limits: dict[str, int], more: dict[str, int], key: str
) -> None:
    docs = fill(tmp_path / "docs", files)
    with pytest.raises(InputTooLarge) as caught:
        read(docs, replace(READING, limits=replace(LIMITS, **limits), **more))  # type: ignore[arg-type]
    assert caught.value.key == key
    assert key in caught.value.message
    assert str(docs) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.threat("T-215")
def test_looking_for_many_patterns_in_many_paths_ends_in_one_line_that_names_the_way_out(
    tmp_path: Path,
) -> None:
    """No limit of the policy's is near: the lines times the entries are what would take hours."""
    docs = fill(tmp_path / "docs", {f"{n:03}{'a' * 240}": "" for n in range(200)})
    (docs / ".gitignore").write_text("".join(f"{n:02}{'b' * 990}\n" for n in range(60)))
    limits = replace(LIMITS, entries_max=1_000, files_max=300)
    reading = replace(READING, bytes_max=200_000, limits=limits, guest_files_max=1_000)
    with pytest.raises(InputTooLarge) as caught:
        read(docs, reading)
    assert caught.value.limit == INPUT_IGNORE_STEPS_MAX
    assert "--all" in caught.value.message
    assert str(docs) in caught.value.message
    assert "\n" not in caught.value.message
    assert len(texts(read(docs, reading, everything=True))) == 201
    # What was not asked for is not looked up.
    assert len(texts(read(docs, reading, include=("00*",)))) == 10


def test_a_folder_in_which_nothing_can_match_takes_nothing_of_the_entries(tmp_path: Path) -> None:
    docs = fill(tmp_path / "docs", {f".cache/{n}.csv": "" for n in range(300)} | {"sub/a.csv": "1"})
    assert texts(read(f"{docs}/**/*.csv")) == {"sub/a.csv": "1"}


@pytest.mark.threat("T-215")
def test_names_are_whatever_a_file_system_allows_and_messages_stay_one_line(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    odd = [b"a\nb", b"\x1b[2J", b"\xff\xfe", "\u202eevil".encode(), b" ", b"`x`", b"-"]
    for name in odd:
        (Path(os.fsdecode(bytes(docs) + b"/" + name))).write_text("1")
    (docs / "bin\n\x1b").write_bytes(b"\0")
    found = read(docs)
    assert {os.fsencode(path) for path in texts(found)} == set(odd)
    assert told(found).isprintable()


@pytest.mark.threat("T-215")
def test_an_ignore_file_that_cannot_be_understood_is_no_reason_to_take_what_it_hides(tmp_path: Path) -> None:
    docs = fill(tmp_path / "docs", {"a": "1", ".gitignore": b"\xff\n"})
    with pytest.raises(InputError, match=r"cannot tell what .*\.gitignore leaves out: .*; --all takes"):
        read(docs)
    assert texts(read(docs, exclude=(".gitignore",), everything=True)) == {"a": "1"}
    (docs / ".gitignore").unlink()
    (docs / ".gitignore").symlink_to("a")
    with pytest.raises(InputError, match="cannot tell what"):
        read(docs)


@pytest.mark.parametrize("kind", [InputKind.JSON, InputKind.JSONL, InputKind.BYTES])
def test_a_folder_is_texts_and_nothing_else(tmp_path: Path, kind: InputKind) -> None:
    with pytest.raises(UsageError, match="is given as the texts of its files; for --as"):
        read(fill(tmp_path / "docs", {"a": "1"}), replace(READING, kind=kind))


def test_one_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "nothing" / "*.csv")
    with pytest.raises(InputError, match="could be read as text"):
        read(fill(tmp_path / "empty", {}) if (tmp_path / "empty").mkdir() is None else tmp_path)


def test_the_files_of_a_folder_as_bytes_are_bounded_too(tmp_path: Path) -> None:
    docs = fill(tmp_path / "docs", {"a": b"\0", "sub/b": b"\xff", ".env": "KEY"})
    name, found, left_out = read_folder_files(str(docs), FolderChoice(), LIMITS, bytes_max=2, files_max=4)
    assert (name, found) == ("docs", {"a": b"\0", "sub/b": b"\xff"})
    assert list(left_out) == ["private (--all takes it)"]
    for bytes_max, files_max, key in ((1, 4, "sandbox.files_bytes_max"), (2, 3, "sandbox.files_max")):
        with pytest.raises(InputTooLarge) as caught:
            read_folder_files(str(docs), FolderChoice(), LIMITS, bytes_max=bytes_max, files_max=files_max)
        assert caught.value.key == key


@pytest.fixture(autouse=True)
def no_descriptor_is_left(count_descriptors: Callable[[], int]) -> Iterator[None]:
    before = count_descriptors()
    yield
    assert count_descriptors() == before


@pytest.fixture
def count_descriptors() -> Callable[[], int]:
    return lambda: len(os.listdir("/proc/self/fd"))
