"""`rlm-wasm cache` changes nothing to look, and removes nothing while it does not know what is used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlm_wasm.artifacts import installed
from rlm_wasm.artifacts.compile_cache import cache_path
from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import FACTS_FILE, MAC_FILE, load_guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.cli.cache import cache
from rlm_wasm.cli.out_folder import look_at
from rlm_wasm.errors import ArtifactError, UsageError
from tests.support.images import carry_guest, made_guest

pytestmark = pytest.mark.usefixtures("own_folders")

LONG_AGO = (0, 0)


@pytest.fixture
def carried(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installation whose guest is still packed; the name of that."""
    return carry_guest(own_folders / "packed", monkeypatch)


def unused_since_long(folder: Path) -> None:
    os.utime(folder / MAC_FILE, LONG_AGO)
    os.utime(folder, LONG_AGO)


@pytest.mark.parametrize("arguments", [["info"], ["prune", "--dry-run"], ["prune"]])
def test_a_guest_that_is_carried_is_not_unpacked_to_look(carried: str, arguments: list[str]) -> None:
    told = CliRunner().invoke(cache, arguments)
    assert told.exit_code == 0, told.output
    assert list(guests_dir().iterdir()) == []


def test_an_empty_name_is_no_folder_to_share(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_folders)
    before = sorted(own_folders.iterdir())
    told = CliRunner().invoke(cache, ["share", ""])
    assert (told.exit_code, sorted(own_folders.iterdir())) == (2, before)
    with pytest.raises(UsageError, match="--out is empty"):
        look_at("")


def test_one_that_was_unpacked_is_in_use_with_its_native_code_and_stays(carried: str) -> None:
    guest = find_guest()
    write_private(cache_path(guest.read_code()), [b"native"])
    unused_since_long(guest.folder)
    os.utime(cache_path(guest.read_code()), LONG_AGO)
    told = CliRunner().invoke(cache, ["info", "--json"])
    assert {entry["name"]: entry["in_use"] for entry in json.loads(told.stdout)["entries"]} == {
        carried: True,
        cache_path(guest.read_code()).name: True,
    }
    CliRunner().invoke(cache, ["prune", "--unused-days", "0"], catch_exceptions=False)
    assert find_guest().folder == guest.folder
    assert cache_path(guest.read_code()).exists()


def test_where_it_cannot_be_worked_out_what_is_used_nothing_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that is too busy to say in time, say."""
    folder = made_guest()
    unused_since_long(folder)
    monkeypatch.setattr(installed, "_NAMES_SECONDS_MAX", 0.0)
    for arguments in (["prune", "--unused-days", "0"], ["prune", "--unused-days", "0", "--dry-run"]):
        told = CliRunner().invoke(cache, arguments)
        assert isinstance(told.exception, ArtifactError)
        assert "it cannot be worked out which guest is this program's" in told.exception.message
    assert (folder / FACTS_FILE).exists()
    shown = CliRunner().invoke(cache, ["info"])
    assert shown.exit_code == 0
    assert "note: it is not known what this program uses: it cannot be worked out" in shown.stderr
    assert folder.name in shown.stdout
    assert "no guest of this program's" not in shown.stdout
    document = json.loads(CliRunner().invoke(cache, ["info", "--json"]).stdout)
    assert [entry["in_use"] for entry in document["entries"]] == [None]


def test_a_damaged_guest_of_this_programs_is_still_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made_guest()
    monkeypatch.setattr(installed, "_names", lambda sources, packages: frozenset({folder.name}))
    (folder / FACTS_FILE).write_bytes(b"damaged")
    document = json.loads(CliRunner().invoke(cache, ["info", "--json"]).stdout)
    assert [entry["in_use"] for entry in document["entries"]] == [True]
    shutil.rmtree(folder)
    assert json.loads(CliRunner().invoke(cache, ["info", "--json"]).stdout)["entries"] == []


def test_without_sources_the_newest_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = made_guest("one"), made_guest("two")
    os.utime(older / FACTS_FILE, LONG_AGO)

    def missing() -> Path:
        raise ArtifactError("no sources")

    monkeypatch.setattr(installed, "guest_dir", missing)
    assert installed.current_guest() == (newest, load_guest(newest).facts.code_sha256)
    assert installed.current_guest("numpy") is None
