"""The cache that users share: made by root, read by all, and refused where anybody else may write it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from rlm_wasm.artifacts import compile_cache, installed, shared_cache
from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.compile_cache import native_code, share_code
from rlm_wasm.artifacts.guest import Guest, load_guest
from rlm_wasm.artifacts.image import IMAGES_FOLDER, MANIFEST_FILE, MEMORY_FILE, load_image
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.artifacts.shared_cache import (
    DEFAULT,
    KEY_FILE,
    SharedCache,
    prepare,
    put_guest,
    remove_damaged,
)
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.images.lock import ImageLock
from rlm_wasm.images.making import make_image
from tests.support.damage import cut, flip, link
from tests.support.images import write_guest
from tests.support.wat_guest import MEMORY_BYTES, assemble

pytestmark = [pytest.mark.threat("T-331"), pytest.mark.usefixtures("own_folders")]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

RAW, CODE, IMAGE = b"raw bytes", assemble(""), b"image" + bytes(MEMORY_BYTES - 5)
NATIVE = b"native code"


@pytest.fixture
def built() -> Guest:
    return load_guest(write_guest(guests_dir() / "abc123", RAW, CODE, IMAGE, recipe="abc123"))


@pytest.fixture
def shared(built: Guest, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> SharedCache:
    """A shared cache with a guest and its native code, named by the environment of a user who has nothing."""
    made = prepare(own_folders / "shared")
    put_guest(made, built)
    share_code(made, CODE, NATIVE)
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", str(made.folder))
    for variable in ("RLM_WASM_CACHE", "RLM_WASM_STATE"):
        monkeypatch.setenv(variable, "/dev/null/none")  # and who cannot have any
    monkeypatch.setattr(installed, "_names", lambda sources, packages: frozenset({"abc123"}))
    return made


def unexpected(*given: object) -> NoReturn:
    raise AssertionError("it was done again")


def use() -> None:
    """Take guest and native code, as a process does that starts."""
    guest = find_guest()
    assert (guest.read_raw(), guest.read_code(), guest.read_image()) == (RAW, CODE, IMAGE)
    assert bytes(native_code(CODE, unexpected)) == NATIVE


def test_who_has_no_cache_and_no_key_runs_what_is_shared(shared: SharedCache) -> None:
    use()
    assert find_guest().folder == shared.folder / "guests" / "abc123"


def test_everybody_may_read_it_whatever_the_umask_of_who_made_it(built: Guest, own_folders: Path) -> None:
    before = os.umask(0o077)
    try:
        made = prepare(own_folders / "other")
        put_guest(made, built)
        share_code(made, CODE, NATIVE)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in made.folder.rglob("*") if path.is_file()}
    folders = {
        path.stat().st_mode & 0o777 for path in (made.folder, *made.folder.rglob("*")) if path.is_dir()
    }
    assert (modes, folders) == ({0o644}, {0o755})


def test_making_it_again_keeps_its_key_and_mends_it(shared: SharedCache, own_folders: Path) -> None:
    kept = (shared.folder / KEY_FILE).read_bytes()
    (shared.folder / "guests" / "abc123" / artifact.FACTS_FILE).unlink()
    os.environ["RLM_WASM_CACHE"] = str(own_folders / "cache")
    os.environ["RLM_WASM_STATE"] = str(own_folders / "state")
    put_guest(prepare(shared.folder), load_guest(own_folders / "cache" / "guests" / "abc123"))
    use()
    assert (shared.folder / KEY_FILE).read_bytes() == kept


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(path.stat().st_mode | bits)


def give_away(path: Path) -> None:
    os.chown(path, 12_345, -1)


WRITERS = [
    pytest.param(mode(0o020), id="group"),
    pytest.param(mode(0o002), id="others"),
    pytest.param(give_away, id="owner", marks=needs_root),
]


@pytest.mark.parametrize("let_in", WRITERS)
@pytest.mark.parametrize("place", [".", "guests", "guests/abc123", "compiled"])
def test_a_folder_that_another_user_may_write_is_refused(
    shared: SharedCache, place: str, let_in: Callable[[Path], None]
) -> None:
    let_in(shared.folder / place)
    with pytest.raises(ArtifactError, match="cannot be trusted: another user than root may write"):
        use()


@pytest.mark.parametrize("let_in", WRITERS)
@pytest.mark.parametrize(
    "place",
    [
        KEY_FILE,
        *(f"guests/abc123/{name}" for name in (artifact.FACTS_FILE, artifact.IMAGE_FILE)),
        "compiled/*",
    ],
)
def test_a_file_that_another_user_may_write_is_refused(
    shared: SharedCache, place: str, let_in: Callable[[Path], None]
) -> None:
    (path,) = shared.folder.glob(place)
    let_in(path)
    with pytest.raises(ArtifactError, match=r"of this user or of root|written by another user"):
        use()


@pytest.mark.parametrize("let_in", WRITERS)
def test_a_folder_above_it_that_another_user_may_write_is_refused(
    built: Guest, own_folders: Path, monkeypatch: pytest.MonkeyPatch, let_in: Callable[[Path], None]
) -> None:
    above = own_folders / "above"
    above.mkdir()
    made = prepare(above / "shared")
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", str(made.folder))
    let_in(above)
    with pytest.raises(ArtifactError, match=f"another user than root may write {above}"):
        shared_cache.shared_cache()


def test_a_sticky_folder_above_it_is_as_good_as_one_that_nobody_writes(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = own_folders / "above"
    above.mkdir()
    made = prepare(above / "shared")
    above.chmod(0o1777)
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", str(made.folder))
    assert shared_cache.shared_cache() == made


@pytest.mark.parametrize("tamper", [flip, cut, link])
@pytest.mark.parametrize(
    "place",
    [
        KEY_FILE, "compiled/*",
        *(f"guests/abc123/{name}" for name in (
            artifact.FACTS_FILE, artifact.MAC_FILE, artifact.RAW_FILE, artifact.CODE_FILE, artifact.IMAGE_FILE
        )),
    ],
)  # fmt: skip
def test_any_change_to_any_file_of_it_is_an_error_that_says_how_to_mend_it(
    shared: SharedCache, place: str, tamper: Callable[[Path], None]
) -> None:
    (path,) = shared.folder.glob(place)
    tamper(path)
    with pytest.raises(ArtifactError) as damaged:
        use()
    assert str(damaged.value.hint).endswith(f"rlm-wasm cache share {shared.folder}")


@pytest.fixture
def again(
    built: Guest, shared: SharedCache, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Make the shared cache once more, as its owner does who has the guest in a cache of his own."""

    def make() -> None:
        with monkeypatch.context() as own:
            for variable, folder in (("RLM_WASM_CACHE", "cache"), ("RLM_WASM_STATE", "state")):
                own.setenv(variable, str(own_folders / folder))
            guest = find_guest(shared=False)
            native = native_code(CODE, lambda code: NATIVE, shared=False)
            made = prepare(shared.folder)
            put_guest(made, guest)
            share_code(made, CODE, native)
            remove_damaged(made)

    return make


@pytest.mark.parametrize("tamper", [flip, cut, link, Path.unlink])
@pytest.mark.parametrize(
    "place",
    [
        KEY_FILE, "compiled/*",
        *(f"guests/abc123/{name}" for name in (
            artifact.FACTS_FILE, artifact.MAC_FILE, artifact.RAW_FILE, artifact.CODE_FILE, artifact.IMAGE_FILE
        )),
    ],
)  # fmt: skip
def test_whatever_is_damaged_of_it_is_mended_by_making_it_again_where_it_is(
    shared: SharedCache, again: Callable[[], None], place: str, tamper: Callable[[Path], None]
) -> None:
    """Also while the environment names it: that is where the error sends its owner."""
    (path,) = shared.folder.glob(place)
    tamper(path)
    again()
    use()


def test_one_that_is_named_and_not_there_yet_can_be_made(
    built: Guest, shared: SharedCache, again: Callable[[], None]
) -> None:
    shutil.rmtree(shared.folder)
    again()
    use()


def test_a_damaged_guest_of_another_version_goes_and_a_sound_one_stays(
    shared: SharedCache, again: Callable[[], None]
) -> None:
    guests = shared.folder / "guests"
    other = find_guest()
    for name in ("older", "oldest"):
        put_guest(shared, replace(other, facts=replace(other.facts, recipe=name)))
    flip(guests / "older" / artifact.FACTS_FILE)
    with pytest.raises(ArtifactError, match="was not written by this machine"):
        find_guest()
    again()
    use()
    assert sorted(path.name for path in guests.iterdir()) == ["abc123", "oldest"]


@pytest.mark.parametrize("place", ["guests", "compiled"])
def test_a_folder_of_it_that_leads_elsewhere_is_refused_and_nothing_there_is_touched(
    shared: SharedCache, again: Callable[[], None], own_folders: Path, place: str
) -> None:
    (shared.folder / KEY_FILE).write_bytes(b"damaged")
    elsewhere = (shared.folder / place).rename(own_folders / "elsewhere")
    (shared.folder / place).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(ArtifactError, match="cannot be trusted"):
        again()
    assert before
    assert sorted(elsewhere.rglob("*")) == before


def unnamed(sources: Path, packages: tuple[str, ...]) -> frozenset[str]:
    raise ArtifactError("it cannot be worked out")


def test_where_it_cannot_be_worked_out_which_guest_is_this_programs_none_is_taken_for_it(
    shared: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "_names", unnamed)  # its process was too slow, say
    with pytest.raises(ArtifactError, match="it cannot be worked out"):
        find_guest()


def test_a_guest_of_other_sources_is_not_taken_and_without_sources_any_is(
    shared: SharedCache, monkeypatch: pytest.MonkeyPatch, own_folders: Path
) -> None:
    for variable, folder in (("RLM_WASM_CACHE", "cache"), ("RLM_WASM_STATE", "state")):
        monkeypatch.setenv(variable, str(own_folders / folder))
    monkeypatch.setattr(installed, "_names", lambda sources, packages: frozenset({"newer"}))
    with pytest.raises(ArtifactError, match="no guest is built from the sources"):
        find_guest()

    def missing() -> Path:
        raise ArtifactError("no sources")

    monkeypatch.setattr(installed, "guest_dir", missing)
    assert find_guest().folder == shared.folder / "guests" / "abc123"


def test_its_note_of_the_sources_is_shared_and_no_process_has_to_work_the_names_out(
    built: Guest, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(installed, "_names", lambda sources, packages: frozenset({"abc123"}))
        found = find_guest()  # by whoever makes the cache, who notes it
    made = prepare(own_folders / "shared")
    put_guest(made, found)
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", str(made.folder))
    monkeypatch.setattr(installed, "_names", unexpected)
    assert find_guest().folder == made.folder / "guests" / "abc123"


def test_another_processor_finds_no_native_code_and_compiles(
    shared: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "processor_features", lambda: "fewer")
    assert find_guest().read_code() == CODE
    assert native_code(CODE, lambda code: b"made here") == b"made here"


def test_a_named_folder_that_is_none_is_an_error_and_the_default_may_be_missing(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", str(own_folders / "none"))
    with pytest.raises(ArtifactError, match="is no folder") as missing:
        shared_cache.shared_cache()
    assert f"rlm-wasm cache share {own_folders}/none" in str(missing.value.hint)
    (own_folders / "none").mkdir()
    with pytest.raises(ArtifactError, match="is no shared cache"):
        shared_cache.shared_cache()
    monkeypatch.setenv("RLM_WASM_SHARED_CACHE", "")
    assert shared_cache.shared_cache() is None
    monkeypatch.delenv("RLM_WASM_SHARED_CACHE")
    monkeypatch.setattr(shared_cache, "DEFAULT", own_folders / "missing")
    assert shared_cache.shared_cache() is None
    assert Path("/var/cache/rlm-wasm") == DEFAULT


def test_the_default_is_looked_at_without_being_named(
    shared: SharedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLM_WASM_SHARED_CACHE")
    monkeypatch.setattr(shared_cache, "DEFAULT", shared.folder)
    use()
    mode(0o002)(shared.folder)
    with pytest.raises(ArtifactError, match="cannot be trusted"):
        use()


PACKAGES = b"packages" + bytes(MEMORY_BYTES - 8)


@pytest.fixture
def image(shared: SharedCache, tmp_path: Path) -> Path:
    """The folder of an image over the shared guest, made by the user who owns that."""
    before = os.umask(0o077)
    try:
        make_image(
            find_guest(), "mine", ImageLock("base", (), ()), SourceStore(tmp_path / "downloads"),
            lambda guest, files, preload: PACKAGES, Silent(),
        )  # fmt: skip
    finally:
        os.umask(before)
    return shared.folder / "guests" / "abc123" / IMAGES_FOLDER / "mine"


def test_an_image_over_it_is_for_everybody_too_and_needs_nobodys_key(image: Path) -> None:
    guest = find_guest("mine")
    assert (guest.read_image(), guest.read_code()) == (PACKAGES, CODE)
    assert {path.stat().st_mode & 0o777 for path in image.iterdir()} == {0o644}
    assert {folder.stat().st_mode & 0o777 for folder in (image, image.parent)} == {0o755}


@pytest.mark.parametrize("let_in", WRITERS)
@pytest.mark.parametrize("place", ["..", ".", MANIFEST_FILE, MANIFEST_FILE + ".mac", MEMORY_FILE])
def test_an_image_over_it_that_another_user_may_write_is_refused(
    image: Path, place: str, let_in: Callable[[Path], None]
) -> None:
    let_in(image / place)
    with pytest.raises(ArtifactError, match=r"of this user or of root|written by another user|be trusted"):
        find_guest("mine").read_image()


@pytest.mark.parametrize("tamper", [flip, cut, link])
@pytest.mark.parametrize("place", [MANIFEST_FILE, MANIFEST_FILE + ".mac", MEMORY_FILE])
def test_an_image_over_it_that_is_changed_is_an_error(
    image: Path, place: str, tamper: Callable[[Path], None]
) -> None:
    tamper(image / place)
    with pytest.raises(ArtifactError):
        find_guest("mine").read_image()


def test_an_image_that_a_machines_own_key_vouches_for_is_none_of_a_shared_guests(
    built: Guest, shared: SharedCache, own_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as own:
        own.setenv("RLM_WASM_STATE", str(own_folders / "state"))
        make_image(
            built, "mine", ImageLock("base", (), ()), SourceStore(tmp_path / "downloads"),
            lambda guest, files, preload: PACKAGES, Silent(),
        )  # fmt: skip
    images = shared.folder / "guests" / "abc123" / IMAGES_FOLDER
    (built.folder / IMAGES_FOLDER).rename(images)
    for path in (images, images / "mine", *(images / "mine").iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with pytest.raises(ArtifactError, match="was not written by this machine"):
        load_image(find_guest(), "mine")


def test_who_may_not_write_there_is_told_who_makes_an_image(
    shared: SharedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(GuestBuildError, match="this user may not put an image there") as caught:
        make_image(
            find_guest(), "mine", ImageLock("base", (), ()), SourceStore(tmp_path / "downloads"),
            lambda guest, files, preload: PACKAGES, Silent(),
        )  # fmt: skip
    assert caught.value.hint is not None
    assert "RLM_WASM_SHARED_CACHE" in caught.value.hint
