"""A built guest on disk: one changed byte anywhere and nothing of it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import Guest, image_mac, load_guest
from rlm_wasm.artifacts.paths import guests_dir
from rlm_wasm.errors import ArtifactError
from tests.support.damage import cut, flip, link
from tests.support.images import write_guest
from tests.support.wat_guest import MEMORY_BYTES

pytestmark = [pytest.mark.threat("T-017"), pytest.mark.usefixtures("own_folders")]

RAW, CODE, IMAGE = b"raw bytes", b"code bytes", b"image" + bytes(MEMORY_BYTES - 5)


def make(name: str = "one") -> Path:
    return write_guest(guests_dir() / name, RAW, CODE, IMAGE)


def use(folder: Path) -> Guest:
    """Read all of a guest."""
    guest = load_guest(folder)
    assert (guest.read_raw(), guest.read_code(), guest.read_image()) == (RAW, CODE, IMAGE)
    return guest


def test_a_guest_is_read_as_it_was_written() -> None:
    assert use(make()).facts.image_bytes == MEMORY_BYTES


FILES = [artifact.FACTS_FILE, artifact.MAC_FILE, artifact.RAW_FILE, artifact.CODE_FILE, artifact.IMAGE_FILE]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("tamper", [flip, cut, link, Path.unlink, lambda path: path.chmod(0o666)])
def test_any_change_to_any_file_is_refused(file: str, tamper: Callable[[Path], None]) -> None:
    folder = make()
    tamper(folder / file)
    with pytest.raises(ArtifactError):
        use(folder)


def test_facts_of_another_machine_are_refused() -> None:
    folder = make()
    (Path(os.environ["RLM_WASM_STATE"]) / "machine.key").write_bytes(bytes(32))
    with pytest.raises(ArtifactError, match="not written by this machine"):
        load_guest(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": artifact.FORMAT + 1},
        {"extra": 1},
        {"image_bytes": 100},
        {"stack_pointer": 0},
        {"stack_pointer": MEMORY_BYTES + 1},
    ],
)
def test_facts_that_cannot_be_are_refused_even_with_a_mac(change: dict[str, int]) -> None:
    folder = make()
    values = json.loads((folder / artifact.FACTS_FILE).read_text())
    text = json.dumps(values | change).encode()
    write_private(folder / artifact.FACTS_FILE, [text])
    key = artifact.machine_key()
    write_private(folder / artifact.MAC_FILE, [artifact.mac(key, "guest-facts", text)])
    with pytest.raises(ArtifactError, match=r"another format|impossible image"):
        load_guest(folder)


def test_a_mac_of_the_image_is_no_mac_of_the_facts() -> None:
    """Each purpose has a key of its own: a MAC cannot be carried from one kind of file to another."""
    folder = make()
    text = (folder / artifact.FACTS_FILE).read_bytes()
    (folder / artifact.MAC_FILE).write_bytes(bytes.fromhex(image_mac(text)))
    with pytest.raises(ArtifactError):
        load_guest(folder)
