"""An image of packages on disk: one changed byte anywhere and nothing of it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import Guest, load_guest
from rlm_wasm.artifacts.image import (
    FORMAT,
    IMAGES_FOLDER,
    MANIFEST_FILE,
    MEMORY_FILE,
    ImageManifest,
    checked_image_name,
    image_names,
    load_image,
    save_image,
)
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.errors import ArtifactError, UsageError
from tests.support.damage import cut, flip, link
from tests.support.images import IMAGE_PACKAGE, made_guest
from tests.support.wat_guest import MEMORY_BYTES

pytestmark = [pytest.mark.threat("T-271"), pytest.mark.usefixtures("own_folders")]

MEMORY = b"packages" + bytes(MEMORY_BYTES - 8)
MAC_FILE = MANIFEST_FILE + ".mac"


def make(guest: Guest, name: str = "mine", **over: object) -> Path:
    """Write an image as `rlm-wasm guest image` does."""
    folder = guest.folder / IMAGES_FOLDER / name
    folder.mkdir(mode=0o700, parents=True)
    manifest = ImageManifest(
        format=FORMAT,
        name=name,
        guest_code_sha256=guest.facts.code_sha256,
        guest_image_sha256=guest.facts.image_sha256,
        image_sha256="0" * 64,
        image_bytes=0,
        image_mac="",
        lock_sha256="",
        preload=("thing",),
        packages=(IMAGE_PACKAGE,),
    )
    save_image(folder, replace(manifest, **over), MEMORY, guest)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    folder = made_guest()
    monkeypatch.setenv("RLM_WASM_GUEST", str(folder))
    return load_guest(folder)


def use(guest: Guest, name: str = "mine") -> bytes:
    return load_image(guest, name).guest.read_image()


def refused(guest: Guest, name: str = "mine") -> bool:
    with pytest.raises(ArtifactError) as caught:
        use(guest, name)
    return caught.value.hint is not None and f"rlm-wasm guest image {name}" in caught.value.hint


def test_an_image_is_read_as_it_was_written_and_its_code_is_the_guests(guest: Guest) -> None:
    make(guest)
    image = load_image(guest, "mine")
    assert image.manifest.packages == (IMAGE_PACKAGE,)
    assert image.guest.read_image() == MEMORY
    assert image.guest.read_code() == guest.read_code()
    assert image_names(guest) == ["mine"]
    assert find_guest("mine") == image.guest
    assert find_guest() == find_guest("base") == guest


def test_an_image_that_is_not_there_is_one_line_and_the_command_that_makes_it(guest: Guest) -> None:
    assert refused(guest)
    assert image_names(guest) == []
    with pytest.raises(ArtifactError, match="no image data") as caught:
        find_guest("data")
    assert caught.value.hint == "make it with: rlm-wasm guest image data"


@pytest.mark.parametrize("file", [MANIFEST_FILE, MAC_FILE, MEMORY_FILE])
@pytest.mark.parametrize("damage", [flip, cut, link, Path.unlink], ids=["flipped", "cut", "linked", "gone"])
def test_whatever_is_changed_nothing_of_it_is_used(
    guest: Guest, file: str, damage: Callable[[Path], None]
) -> None:
    damage(make(guest) / file)
    with pytest.raises(ArtifactError):
        use(guest)


def test_a_manifest_that_somebody_rewrote_is_not_believed(guest: Guest) -> None:
    folder = make(guest)
    values = json.loads((folder / MANIFEST_FILE).read_bytes())
    values["packages"][0]["licence"] = "none of your business"
    write_private(folder / MANIFEST_FILE, [json.dumps(values).encode()])
    assert refused(guest)


def test_the_memory_of_another_image_is_not_taken_for_it(guest: Guest) -> None:
    mine, other = make(guest), make(guest, "other")
    assert use(guest) == use(guest, "other")
    different = b"different" + bytes(MEMORY_BYTES - 9)
    save_image(other, load_image(guest, "other").manifest, different, guest)
    (mine / MEMORY_FILE).write_bytes((other / MEMORY_FILE).read_bytes())
    assert refused(guest)


def test_an_image_over_another_guest_or_under_another_name_is_refused(guest: Guest) -> None:
    folder = make(guest)
    other = load_guest(made_guest("two"))
    (other.folder / IMAGES_FOLDER).mkdir(mode=0o700)
    folder.rename(other.folder / IMAGES_FOLDER / "mine")
    assert refused(other)
    (other.folder / IMAGES_FOLDER / "mine").rename(guest.folder / IMAGES_FOLDER / "renamed")
    assert refused(guest, "renamed")


@pytest.mark.parametrize("over", [{"format": FORMAT + 1}, {"image_bytes": 1}], ids=["format", "bytes"])
def test_a_manifest_of_another_version_is_refused(guest: Guest, over: dict[str, object]) -> None:
    folder = make(guest, **over)
    if "image_bytes" in over:
        (folder / MEMORY_FILE).write_bytes(b"odd")
    assert refused(guest)


def test_an_image_of_another_lock_than_this_programs_is_not_used(guest: Guest) -> None:
    make(guest, "data", lock_sha256="0" * 64)
    with pytest.raises(ArtifactError, match="other packages than this program's") as caught:
        find_guest("data")
    assert caught.value.hint == "make it with: rlm-wasm guest image data"


@pytest.mark.parametrize(
    "name", ["", "base", "numpy", "../x", "A", "a b", "a/b", "1a", "a" * 65, ".making-x"]
)
def test_what_is_no_name_of_an_image_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of an image"):
        checked_image_name(name)
