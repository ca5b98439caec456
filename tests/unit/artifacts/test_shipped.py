"""A guest that a wheel carries: unpacked once and authenticated, or, with one changed byte, not at all."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.artifacts import first_use, installed, shipped
from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.guest import Guest, load_guest
from rlm_wasm.artifacts.installed import find_guest, newest_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.artifacts.shipped import open_shipped, pack
from rlm_wasm.errors import ArtifactError
from tests.support.damage import cut, flip
from tests.support.images import write_guest
from tests.support.wat_guest import MEMORY_BYTES

pytestmark = [pytest.mark.threat("T-017"), pytest.mark.usefixtures("own_folders")]

# As in a real guest, the image and the code repeat parts of what the linker made.
CODE = bytes(range(256)) * 400
RAW = CODE + b"data" * 5_000
IMAGE = (b"data" * 5_000).ljust(MEMORY_BYTES, b"\0")
FILES = (shipped.FACTS_FILE, shipped.HASH_FILE, shipped.CONTENT_FILE)


@pytest.fixture
def built(own_folders: Path) -> Guest:
    """A guest as the build leaves it, on the machine that makes the wheel."""
    return load_guest(write_guest(own_folders / "builder", RAW, CODE, IMAGE, recipe="abc123"))


@pytest.fixture
def packed(built: Guest, own_folders: Path) -> Path:
    folder = own_folders / "packed"
    pack(built, folder, level=1)
    return folder


@pytest.fixture
def carried(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that carries the packed guest."""
    monkeypatch.setattr(installed, "shipped_guest", lambda: open_shipped(packed))
    return packed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done once."""
    found: list[str] = []

    @contextmanager
    def watcher(what: str) -> Iterator[None]:
        found.append(what)
        yield

    monkeypatch.setattr(first_use, "_watcher", watcher)
    return found


def use(guest: Guest) -> tuple[bytes, bytes, bytes]:
    return guest.read_raw(), guest.read_image(), guest.read_code()


def test_what_was_packed_is_unpacked_once_and_then_is_a_guest_like_any(
    carried: Path, built: Guest, told: list[str]
) -> None:
    for _ in range(2):
        found = find_guest()
        assert use(found) == (RAW, IMAGE, CODE)
        assert found.facts == built.facts
        assert found.folder == guests_dir() / "abc123"
    assert told == ["unpacking the guest"]
    assert newest_guest().folder == found.folder
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in found.folder.iterdir())
    assert sorted(path.name for path in guests_dir().iterdir()) == [".unpacking.lock", "abc123"]


def test_each_machine_authenticates_it_with_a_key_of_its_own(
    carried: Path, built: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_WASM_STATE", str(tmp_path / "other_state"))
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "other_cache"))
    found = find_guest()
    assert use(found) == (RAW, IMAGE, CODE)
    assert found.facts.image_mac not in (built.facts.image_mac, "")


def test_the_same_guest_is_packed_into_the_same_bytes(built: Guest, packed: Path, tmp_path: Path) -> None:
    pack(built, tmp_path / "again", level=1)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (packed / name).read_bytes()
    assert (packed / shipped.CONTENT_FILE).stat().st_size < len(RAW)
    assert json.loads((packed / shipped.FACTS_FILE).read_text())["facts"]["image_mac"] == ""


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("tamper", [*(partial(flip, at=at) for at in (0, 0.3, 0.7, 1)), cut, Path.unlink])
def test_any_change_to_any_packed_file_is_refused_and_nothing_is_left(
    carried: Path, file: str, tamper: Callable[[Path], None]
) -> None:
    tamper(carried / file)
    with pytest.raises(ArtifactError, match="of this installation is damaged") as refused:
        find_guest()
    assert refused.value.hint == "install rlm-wasm again"
    assert [path.name for path in guests_dir().iterdir() if path.is_dir()] == []


def describe(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write another description, with the hash that fits."""
    document = json.loads((folder / shipped.FACTS_FILE).read_text())
    change(document)
    text = json.dumps(document).encode()
    (folder / shipped.FACTS_FILE).write_bytes(text)
    (folder / shipped.HASH_FILE).write_text(hashlib.sha256(text).hexdigest())


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format=2),
        lambda document: document.update(sizes=[1, 2]),
        lambda document: document.update(sizes=[len(RAW), 1 << 40, len(CODE)]),
        lambda document: document.update(sizes=[len(RAW), "7", len(CODE)]),
        lambda document: document.pop("facts"),
        lambda document: document["facts"].pop("inbox"),
        lambda document: document["facts"].update(inbox="7"),
        lambda document: document["facts"].update(recipe="../x"),
        lambda document: document["facts"].update(imports=7),
        lambda document: document["facts"].update(more=7),
        lambda document: document.update(sizes=[len(RAW), len(IMAGE), len(CODE) - 1]),
        lambda document: document.update(sizes=[len(RAW), len(IMAGE), len(CODE) + 1]),
    ],
)
def test_a_description_that_cannot_be_is_refused(
    carried: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    describe(carried, change)
    with pytest.raises(ArtifactError, match="of this installation is damaged"):
        find_guest()


def test_what_was_unpacked_and_is_damaged_is_unpacked_again(carried: Path, told: list[str]) -> None:
    folder = find_guest().folder
    (folder / "images" / "mine").mkdir(parents=True)
    flip(folder / artifact.FACTS_FILE)
    assert use(find_guest()) == (RAW, IMAGE, CODE)
    assert len(told) == 2
    assert (folder / "images" / "mine").is_dir()
    assert sorted(path.name for path in guests_dir().iterdir()) == [".unpacking.lock", "abc123"]
    cut(folder / artifact.IMAGE_FILE)  # found out when it is read
    with pytest.raises(ArtifactError, match="does not match its MAC") as refused:
        find_guest().read_image()
    assert refused.value.hint == f"remove it, and it is unpacked again: rm -r {folder}"


def test_of_several_who_want_it_at_once_one_unpacks(carried: Path, told: list[str]) -> None:
    start = threading.Barrier(4)
    found: list[Guest] = []

    def want() -> None:
        start.wait()
        found.append(find_guest())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert [use(guest) for guest in found] == [(RAW, IMAGE, CODE)] * 4
    assert {guest.folder for guest in found} == {guests_dir() / "abc123"}


def test_a_disk_that_cannot_be_written_is_told_with_the_way_out(
    packed: Path, monkeypatch: pytest.MonkeyPatch, own_folders: Path
) -> None:
    def full(path: Path, parts: object) -> None:
        raise ArtifactError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(shipped, "write_private", full)
    with pytest.raises(ArtifactError, match="No space left"):
        open_shipped(packed).unpack(own_folders / "guest")
    assert not (own_folders / "guest").exists()


def test_this_checkout_carries_none() -> None:
    assert shipped.shipped_guest() is None
