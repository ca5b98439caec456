"""The making of an image: what is fetched is what was locked, and the result is one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlm_wasm.artifacts.guest import Guest, load_guest
from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.artifacts.image import MEMORY_FILE, load_image
from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.cli import image as command
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import StageCache
from rlm_wasm.images import making
from rlm_wasm.images.lock import ImageLock, LockedPackage, lock_text
from rlm_wasm.images.making import IMAGES_MAX, MadeImage, make_image
from tests.support.images import made_guest
from tests.support.wat_guest import MEMORY_BYTES
from tests.support.wheels import make_wheel

pytestmark = pytest.mark.usefixtures("own_folders")


class Sealing:
    """Stands for the guest: notes what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[dict[str, bytes], tuple[str, ...]]] = []

    def __call__(self, guest: Guest, files: Mapping[str, bytes], preload: Sequence[str]) -> bytes:
        self.given.append((dict(files), tuple(preload)))
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
        return digest + bytes(MEMORY_BYTES - len(digest))


@pytest.fixture
def guest() -> Guest:
    return load_guest(made_guest())


@pytest.fixture
def store(tmp_path: Path) -> SourceStore:
    (tmp_path / "local").mkdir()
    return SourceStore(tmp_path / "downloads", local=tmp_path / "local", mirrors=list)


def locked(
    folder: Path, name: str = "thing", text: bytes = b"answer = 42\n", module: str | None = None
) -> LockedPackage:
    path = make_wheel(folder / "local", {f"{module or name}/__init__.py": text}, name)
    data = path.read_bytes()
    pin = PinnedFile(hashlib.sha256(data).hexdigest(), len(data), None, (), path.name)
    return LockedPackage(name, "1.0", "MIT", (), pin)


def make(
    guest: Guest, store: SourceStore, *packages: LockedPackage, seal: Sealing | None = None, **more: str
) -> MadeImage:
    return make_image(
        guest, "mine", ImageLock("base", ("thing",), packages), store, seal or Sealing(), Silent(), **more
    )


def test_the_files_of_all_packages_go_into_the_guest_and_its_memory_is_published(
    guest: Guest, store: SourceStore, tmp_path: Path
) -> None:
    seal = Sealing()
    made = make(guest, store, locked(tmp_path), locked(tmp_path, "other"), seal=seal)
    [(files, preload)] = seal.given
    assert {"thing/__init__.py", "other/__init__.py"} < files.keys()
    assert preload == ("thing",)
    assert not made.reused
    read = load_image(guest, "mine")
    assert read == made.image
    assert [package.name for package in read.manifest.packages] == ["thing", "other"]
    assert len(read.guest.read_image()) == MEMORY_BYTES
    assert read.guest.facts.code_sha256 == guest.facts.code_sha256
    assert read.guest.facts.image_sha256 != guest.facts.image_sha256


def test_what_is_there_is_not_made_again_until_a_package_or_the_lock_changes_or_it_is_damaged(
    guest: Guest, store: SourceStore, tmp_path: Path
) -> None:
    package = locked(tmp_path)
    make(guest, store, package)
    assert make(guest, store, package).reused
    assert not make(guest, store, package, lock_sha256="another").reused
    (guest.folder / "images" / "mine" / MEMORY_FILE).write_bytes(bytes(MEMORY_BYTES))
    assert not make(guest, store, package, lock_sha256="another").reused
    assert make(guest, store, package, lock_sha256="another").reused
    assert not make(guest, store, package, locked(tmp_path, "other"), lock_sha256="another").reused


@pytest.mark.threat("T-270")
def test_a_file_with_other_bytes_than_were_locked_is_not_read(
    guest: Guest, store: SourceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no index").as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package = locked(tmp_path)
    locked(tmp_path, text=b"answer = 43\n")
    seal = Sealing()
    with pytest.raises(GuestBuildError, match="sha256"):
        make(guest, store, package, seal=seal)
    assert seal.given == []
    with pytest.raises(ArtifactError, match="no image mine"):
        load_image(guest, "mine")


@pytest.mark.threat("T-270")
def test_a_package_that_is_another_than_its_lock_says_is_refused(
    guest: Guest, store: SourceStore, tmp_path: Path
) -> None:
    package = locked(tmp_path)
    renamed = LockedPackage("other", "1.0", "MIT", (), package.file)
    with pytest.raises(GuestBuildError, match="as its lock says"):
        make(guest, store, renamed)


@pytest.mark.threat("T-270")
def test_two_packages_that_hold_the_same_file_are_refused(
    guest: Guest, store: SourceStore, tmp_path: Path
) -> None:
    with pytest.raises(GuestBuildError, match="other and thing both hold"):
        make(guest, store, locked(tmp_path), locked(tmp_path, "other", b"answer = 43\n", "thing"))


def test_a_seal_that_fails_leaves_what_was_there(guest: Guest, store: SourceStore, tmp_path: Path) -> None:
    before = make(guest, store, locked(tmp_path)).image

    def failing(guest: Guest, files: Mapping[str, bytes], preload: Sequence[str]) -> bytes:
        raise GuestBuildError("it cannot be imported")

    lock = ImageLock("base", ("thing",), (locked(tmp_path, "other"),))
    with pytest.raises(GuestBuildError, match="cannot be imported"):
        make_image(guest, "mine", lock, store, failing, Silent())
    assert load_image(guest, "mine") == before
    assert sorted(path.name for path in (guest.folder / "images").iterdir()) == [".lock", "mine"]


def test_there_are_not_more_images_than_may_be(guest: Guest, store: SourceStore, tmp_path: Path) -> None:
    lock = ImageLock("base", (), (locked(tmp_path),))
    for number in range(IMAGES_MAX):
        make_image(guest, f"image{number}", lock, store, Sealing(), Silent())
    with pytest.raises(GuestBuildError, match=f"there are {IMAGES_MAX} images already"):
        make_image(guest, "more", lock, store, seal := Sealing(), Silent())
    assert seal.given == []
    make_image(guest, "image3", lock, store, Sealing(), Silent(), force=True)


def test_an_image_waits_for_another_over_its_guest_and_not_for_ever(
    guest: Guest, store: SourceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(guest, store, locked(tmp_path))
    monkeypatch.setattr(making, "WAIT_SECONDS_MAX", 0.01)
    with (
        held_lock(guest.folder / "images" / ".lock"),
        pytest.raises(ArtifactError, match=r"another process holds the lock \S+/images/\.lock"),
    ):
        make(guest, store, locked(tmp_path))


def test_the_command_downloads_nothing_while_another_does(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    package = locked(tmp_path)
    (tmp_path / "lock.toml").write_text(lock_text(ImageLock("base", (), (package,))), encoding="utf-8")
    monkeypatch.setattr(command, "find_guest", lambda: guest)
    monkeypatch.setattr(command, "WAIT_SECONDS_MAX", 0.01)
    arguments = ["mine", "--lock", str(tmp_path / "lock.toml"), "--sources", str(tmp_path / "local")]
    with StageCache(cache_dir() / "build", Silent()).locked():
        ended = CliRunner().invoke(command.image, arguments)
    assert isinstance(ended.exception, ArtifactError)
    assert "another process holds" in ended.exception.message
    assert not (cache_dir() / "downloads").exists()
