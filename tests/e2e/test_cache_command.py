"""`rlm-wasm cache` from outside: what is there, what goes, and what is in use stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlm_wasm.artifacts.compile_cache import cache_path, native_code
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.host.compilation import compile_apart
from tests.support.command_line import document, rlm_wasm

pytestmark = pytest.mark.guest
LONG_AGO = (0, 0)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with this program's guest and its native code, used long ago, and a guest of nobody's."""
    guest = find_guest()
    native_code(guest.read_code(), compile_apart)
    cache = tmp_path / "cache"
    mine, code = cache / "guests" / guest.folder.name, cache / "compiled" / cache_path(guest.read_code()).name
    for folder in (mine, code.parent, cache / "guests" / "other"):
        folder.mkdir(mode=0o700, parents=True)
    for made in (cache, cache / "guests"):
        made.chmod(0o700)
    for path in guest.folder.iterdir():
        if path.is_file():  # its images are made again where they are wanted
            shutil.copy2(path, mine)
    shutil.copy2(cache_path(guest.read_code()), code)
    (cache / "guests" / "other" / "base.img").write_bytes(bytes(5_000_000))
    for path in (mine, code.parent, cache / "guests" / "other"):
        os.utime(path, LONG_AGO)
    return cache


def test_what_is_in_use_is_shown_and_stays_and_the_rest_goes(cache: Path) -> None:
    told = document(rlm_wasm("cache", "info", "--json", RLM_WASM_CACHE=str(cache)))
    entries = {entry["name"]: entry for entry in told["entries"]}
    assert {name for name, entry in entries.items() if entry["in_use"]} == entries.keys() - {"other"}
    assert len(entries) == 3
    assert told["folder"] == str(cache)
    assert told["bytes"] == sum(entry["bytes"] for entry in entries.values())
    assert entries["other"]["bytes"] == 5_000_000
    shown = rlm_wasm("cache", "info", RLM_WASM_CACHE=str(cache)).stdout.decode()
    assert "each a guest: its code and its base image" in shown
    assert "  other  5.0 MB  used " in shown

    would = rlm_wasm("cache", "prune", "--dry-run", RLM_WASM_CACHE=str(cache))
    assert would.stdout.decode().splitlines()[-1] == "would free 5.0 MB"
    assert (cache / "guests" / "other").exists()
    done = document(rlm_wasm("cache", "prune", "--json", RLM_WASM_CACHE=str(cache)))
    assert [entry["name"] for entry in done["removed"]] == ["other"]
    assert (done["bytes"], done["dry_run"], done["busy"]) == (5_000_000, False, [])
    assert not (cache / "guests" / "other").exists()
    again = rlm_wasm("cache", "prune", "--unused-days", "0", RLM_WASM_CACHE=str(cache))
    assert again.stdout == b"freed 0.0 MB\n"


def test_an_empty_cache_is_told_as_one(tmp_path: Path) -> None:
    ended = rlm_wasm("cache", "info", RLM_WASM_CACHE=str(tmp_path / "none"))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"no guest of this program's is in it" in ended.stdout
