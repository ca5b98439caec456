"""A guest's folder without a guest, for what only reads files; and the guest with the packages of `data`."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts import installed
from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import Guest, image_mac, load_guest, save_facts
from rlm_wasm.artifacts.image import ImagePackage
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.artifacts.shipped import open_shipped, pack
from rlm_wasm.errors import ArtifactError
from tests.support.command_line import rlm_wasm
from tests.support.wat_guest import MEMORY_BYTES, facts

# What the manifest of an image may say of a package of its.
IMAGE_PACKAGE = ImagePackage("thing", "1.0", "thing-1.0-py3-none-any.whl", 10, "0" * 64, "MIT")


def made_guest(name: str = "one") -> Path:
    """Write a guest as the build does, of bytes that mean nothing."""
    image = name.encode() + bytes(MEMORY_BYTES - len(name))
    return write_guest(guests_dir() / name, b"raw", name.encode(), image)


def write_guest(folder: Path, raw: bytes, code: bytes, image: bytes, **over: str) -> Path:
    """Write a guest of these bytes as the build does."""
    folder.mkdir(mode=0o700)
    for file, data in (
        (artifact.RAW_FILE, raw),
        (artifact.CODE_FILE, code),
        (artifact.IMAGE_FILE, image),
    ):
        write_private(folder / file, [data])
    sums = {
        f"{part}_sha256": hashlib.sha256(data).hexdigest()
        for part, data in (("raw", raw), ("code", code), ("image", image))
    }
    save_facts(folder, facts(format=artifact.FORMAT, image_mac=image_mac(image), **sums | over))
    return folder


def carry_guest(packed: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the installation carry a guest of bytes that mean nothing, still packed; return its name."""
    folder = made_guest("carried")
    guest = load_guest(folder)
    pack(guest, packed, level=1)
    shutil.rmtree(folder)
    monkeypatch.setattr(installed, "shipped_guest", lambda: open_shipped(packed))
    return guest.facts.recipe


def made_data() -> Guest:
    """Return the guest with the packages of `data`, made now where it is not there."""
    try:
        return find_guest("data")
    except ArtifactError:
        # As whoever reads the error would; several processes of tests wait for one another there.
        made = rlm_wasm("guest", "image", "data")
        assert made.returncode == 0, made.stderr.decode()
        return find_guest("data")
