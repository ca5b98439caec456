"""One answer to which guest this process has, whatever is made on disk meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.api.snapshot import Snapshot, load_snapshot
from rlm_wasm.artifacts import process_guest as module
from rlm_wasm.artifacts.guest import load_guest
from rlm_wasm.artifacts.image import FORMAT, IMAGES_FOLDER, MEMORY_FILE, ImageManifest, save_image
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.process_guest import known_guest, loading_guest, process_guest
from rlm_wasm.artifacts.snapshot_file import read_snapshot_file
from rlm_wasm.engine.packages import packages_of
from rlm_wasm.errors import ArtifactError
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.snapshot_runs import WorkerSnapshot
from tests.support.images import IMAGE_PACKAGE, made_guest
from tests.support.wat_guest import MEMORY_BYTES

pytestmark = [pytest.mark.threat("T-271"), pytest.mark.usefixtures("own_folders")]

KEY = b"k" * 32


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest's folder; this process has found nothing yet, and forgets what it finds."""
    monkeypatch.setattr(module, "_found", {})
    monkeypatch.setattr(module, "_kept", set())
    made = made_guest()
    monkeypatch.setenv("RLM_WASM_GUEST", str(made))
    return made


def make(folder: Path, content: bytes, version: str = "1.0") -> None:
    """Make the image `mine` over a guest, in the place of one that is there."""
    guest = load_guest(folder)
    image = folder / IMAGES_FOLDER / "mine"
    image.mkdir(mode=0o700, parents=True, exist_ok=True)
    manifest = ImageManifest(
        format=FORMAT,
        name="mine",
        guest_code_sha256=guest.facts.code_sha256,
        guest_image_sha256=guest.facts.image_sha256,
        image_sha256=content.hex().ljust(64, "0"),
        image_bytes=0,
        image_mac="",
        lock_sha256="",
        preload=(),
        packages=(replace(IMAGE_PACKAGE, version=version),),
    )
    save_image(image, manifest, content.ljust(MEMORY_BYTES, b"\0"), guest)


def test_what_was_found_stays_the_answer_when_an_image_is_made_again(folder: Path) -> None:
    make(folder, b"first")
    assert known_guest("mine") is None
    first = process_guest("mine")
    assert packages_of("mine") == ("thing 1.0",)
    make(folder, b"second", "2.0")
    assert process_guest("mine") is known_guest("mine") is first
    assert packages_of("mine") == ("thing 1.0",)
    assert find_guest("mine").identity != first.identity


def test_a_saved_snapshot_belongs_to_the_image_in_memory_and_not_to_the_one_on_disk(
    folder: Path, tmp_path: Path
) -> None:
    policy = Policy.builtin("strict").replace(sandbox={"image": "mine"})
    make(folder, b"first")
    with loading_guest("mine") as loaded:
        assert loaded.read_image().startswith(b"first")
    make(folder, b"second")
    state = WorkerSnapshot.of_runs((), tenant="", size=MEMORY_BYTES, virtual_ns=0)
    Snapshot(policy, state).save(tmp_path / "kept", key=KEY)
    read_snapshot_file(tmp_path / "kept", KEY, guest=loaded.identity, tenant="")
    load_snapshot(policy, tmp_path / "kept", KEY, "")
    module._found.clear()  # as another process has it
    with pytest.raises(ArtifactError, match="of another guest build"):
        load_snapshot(policy, tmp_path / "kept", KEY, "")


def test_files_that_came_after_the_look_are_not_loaded_and_the_next_look_takes_them(folder: Path) -> None:
    make(folder, b"first")
    process_guest("mine")
    make(folder, b"second")
    with pytest.raises(ArtifactError, match=f"{MEMORY_FILE} does not match its MAC"):
        with loading_guest("mine") as guest:
            guest.read_image()
    with loading_guest("mine") as guest:
        assert guest.read_image().startswith(b"second")


def test_where_something_was_loaded_or_is_to_be_continued_no_later_file_is_taken(
    folder: Path, tmp_path: Path
) -> None:
    policy = Policy.builtin("strict").replace(sandbox={"image": "mine"})
    make(folder, b"first")
    state = WorkerSnapshot.of_runs((), tenant="", size=MEMORY_BYTES, virtual_ns=0)
    Snapshot(policy, state).save(tmp_path / "kept", key=KEY)
    module._found.clear()
    module._kept.clear()
    load_snapshot(policy, tmp_path / "kept", KEY, "")
    make(folder, b"second")
    for _ in range(2):
        with pytest.raises(ArtifactError, match="does not match its MAC"):
            with loading_guest("mine") as guest:
                guest.read_image()


def test_an_image_that_is_missing_is_looked_for_again(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no image mine"):
        process_guest("mine")
    make(folder, b"first")
    with loading_guest("mine") as guest:
        assert guest.read_image().startswith(b"first")
