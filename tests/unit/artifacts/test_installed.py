"""A program runs the guest that its own sources make: not an older one, and not another checkout's."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts import installed
from rlm_wasm.artifacts.guest import NOTE_FILE, save_facts
from rlm_wasm.artifacts.installed import find_guest, newest_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.build import recipe_hash
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.names import guest_names
from rlm_wasm.guestbuild.recipe import recipes
from tests.support.wat_guest import facts
from tests.unit.guestbuild.support import guest_folder

pytestmark = [pytest.mark.threat("T-151"), pytest.mark.usefixtures("own_folders")]


def built(name: str, age: int = 0) -> Path:
    """Put a guest of that recipe where the build puts it; `age` says how old it is."""
    folder = guests_dir() / name
    folder.mkdir(mode=0o700)
    save_facts(folder, replace(facts(), format=artifact.FORMAT, recipe=name))
    os.utime(folder / artifact.FACTS_FILE, (1_000_000 - age, 1_000_000 - age))
    return folder


def named(sources: Path) -> list[str]:
    return [recipe_hash(recipe) for recipe in recipes(load_manifest(sources), "3.14")]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest's sources, as a checkout has them beside the package."""
    folder = tmp_path / "checkout" / "guest"
    folder.mkdir(parents=True)
    guest_folder(folder)
    monkeypatch.setattr(installed, "guest_dir", lambda: folder)
    return folder


def test_a_guest_of_older_sources_is_refused_with_the_way_out(sources: Path) -> None:
    built(named(sources)[0])
    assert find_guest().facts.recipe == named(sources)[0]
    (sources / "python" / "rlm_boot.py").write_text("boot = 2\n")  # an upgrade
    for _ in range(2):
        with pytest.raises(ArtifactError, match="no guest is built from the sources in") as stale:
            find_guest()
        assert "rlm-wasm guest build" in str(stale.value.hint)
    assert newest_guest().facts.recipe not in guest_names(sources)


def test_each_checkout_finds_its_own_guest_in_a_shared_cache(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(sources, other)
    (other / "python" / "rlm_boot.py").write_text("boot = 2\n")
    mine, theirs = built(named(sources)[0], age=9), built(named(other)[0])
    for _ in range(2):  # the second time by the note
        assert find_guest().folder == mine
        with monkeypatch.context() as patch:
            patch.setattr(installed, "guest_dir", lambda: other)
            assert find_guest().folder == theirs
    assert newest_guest().folder == theirs


def test_sources_that_went_back_find_their_guest_again(sources: Path) -> None:
    old = built(named(sources)[0], age=9)
    find_guest()
    before = (sources / "python" / "rlm_boot.py").read_text()
    (sources / "python" / "rlm_boot.py").write_text("boot = 2\n")
    new = built(named(sources)[0])
    assert find_guest().folder == new
    (sources / "python" / "rlm_boot.py").write_text(before)
    assert find_guest().folder == old


def test_a_second_choice_of_the_manifest_is_current_too(sources: Path) -> None:
    folder = built(named(sources)[-1])
    assert named(sources)[-1] != named(sources)[0]
    assert find_guest().folder == folder


def test_any_file_of_the_sources_is_looked_at(sources: Path) -> None:
    folder = built(named(sources)[0])
    find_guest()
    for path in sorted(sources.rglob("*")):
        if path.is_file():
            before = path.read_bytes()
            path.write_bytes(before + b"\n# a comment\n" if path.suffix == ".toml" else before + b"\n")
            names = named(sources)
            if folder.name in names:  # a comment of the manifest, say
                assert find_guest().folder == folder
            else:
                with pytest.raises(ArtifactError, match="no guest is built from the sources"):
                    find_guest()
            path.write_bytes(before)


def test_the_build_is_not_loaded_once_a_guest_was_found(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(named(sources)[0])
    find_guest()

    def unexpected(sources: Path, packages: tuple[str, ...]) -> frozenset[str]:
        raise AssertionError("the recipes were read again")

    monkeypatch.setattr(installed, "_names", unexpected)
    assert find_guest().folder == folder


def test_what_is_wrong_with_the_sources_is_told(sources: Path) -> None:
    built(named(sources)[0])
    manifest = sources / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("format = 1", "format = 9"))
    with pytest.raises(ArtifactError, match=r"manifest\.toml: format must be 1"):
        find_guest()


@pytest.mark.parametrize(
    ("module", "why"), [("tests.support.none", "ModuleNotFoundError"), ("rlm_wasm.errors", "ImportError")]
)
def test_a_process_that_says_no_names_is_told_by_its_last_word(
    sources: Path, monkeypatch: pytest.MonkeyPatch, module: str, why: str
) -> None:
    built(named(sources)[0])
    monkeypatch.setattr(installed, "_NAMES", module)
    with pytest.raises(ArtifactError, match=f"which guest is this program's: {why}"):
        find_guest()


@pytest.mark.parametrize(
    "said",
    [
        "", "7", "null", "[]", "{}", "[" * 60_000, '"names"', '["error"]', '{"error": "no hint"}',
        '{"error": 7, "hint": null}', '{"error": "x", "hint": 7}', '{"names": "abc"}', '{"names": [[]]}',
        '{"names": ["abc", 7]}', '{"names": {"abc": 1}}',
    ],
)  # fmt: skip
def test_a_process_that_says_what_are_no_names_is_one_typed_error(
    sources: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    built(named(sources)[0])
    command = [sys.executable, "-c", f"print({said!r})"]
    monkeypatch.setattr(installed, "interpreter_command", lambda module, *arguments: command)
    with pytest.raises(ArtifactError, match="which guest is this program's"):
        find_guest()


def test_a_python_that_does_not_know_its_own_executable_still_finds_its_guest_by_the_note(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built(named(sources)[0])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")
        with pytest.raises(ArtifactError, match="does not know its own executable"):
            find_guest()
    assert find_guest().folder == folder
    monkeypatch.setattr(sys, "executable", "")
    assert find_guest().folder == folder


@pytest.mark.parametrize("note", [b"", b"\xff\xfe", b"x" * 5000])
def test_a_note_that_is_nonsense_only_costs_the_longer_way(sources: Path, note: bytes) -> None:
    folder = built(named(sources)[0])
    (folder / NOTE_FILE).write_bytes(note)
    assert find_guest().folder == folder
    (sources / "python" / "rlm_boot.py").write_text("boot = 2\n")
    with pytest.raises(ArtifactError):
        find_guest()


def test_an_installation_without_sources_takes_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ArtifactError("no sources")

    monkeypatch.setattr(installed, "guest_dir", missing)
    built("old", age=9)
    new = built("new")
    assert find_guest().folder == new


def test_a_named_guest_is_taken_whatever_it_is(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(named(sources)[0])
    other = built("of_other_sources", age=9)
    monkeypatch.setenv("RLM_WASM_GUEST", str(other))
    assert find_guest().folder == newest_guest().folder == other


@pytest.mark.parametrize("find", [find_guest, newest_guest])
def test_without_a_guest_the_error_says_how_to_build_one(find: object) -> None:
    (guests_dir() / "half").mkdir()
    (guests_dir() / ".hidden").mkdir()
    assert callable(find)
    with pytest.raises(ArtifactError, match="no guest is built") as missing:
        find()
    assert "rlm-wasm guest build" in str(missing.value.hint)
