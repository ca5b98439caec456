"""The key of this machine, and MACs under it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.artifacts.machine_key import KEY_BYTES, mac, machine_key, same
from rlm_wasm.errors import ArtifactError

pytestmark = pytest.mark.threat("T-023")


def key_file(folder: Path) -> Path:
    return folder / "state" / "machine.key"


def test_the_key_is_made_once_and_is_private(own_folders: Path) -> None:
    key = machine_key()
    assert len(key) == KEY_BYTES
    assert machine_key() == key
    assert key_file(own_folders).stat().st_mode & 0o777 == 0o600
    assert os.listdir(own_folders / "state") == ["machine.key"]


def test_starts_at_the_same_moment_agree(own_folders: Path) -> None:
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(machine_key())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 16
    assert len(set(keys)) == 1
    assert os.listdir(own_folders / "state") == ["machine.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(own_folders: Path, mode: int) -> None:
    machine_key()
    key_file(own_folders).chmod(mode)
    with pytest.raises(ArtifactError) as refused:
        machine_key()
    assert "chmod 600" in str(refused.value.hint)


@pytest.mark.parametrize("contents", [b"", b"short", b"x" * (KEY_BYTES + 1)])
def test_a_key_of_another_size_is_refused(own_folders: Path, contents: bytes) -> None:
    machine_key()
    key_file(own_folders).write_bytes(contents)
    with pytest.raises(ArtifactError):
        machine_key()


def test_a_key_behind_a_link_is_refused(own_folders: Path) -> None:
    machine_key()
    key_file(own_folders).rename(own_folders / "elsewhere")
    key_file(own_folders).symlink_to(own_folders / "elsewhere")
    with pytest.raises(ArtifactError):
        machine_key()


def test_a_disk_that_takes_no_key_is_an_error_that_names_the_file(own_folders: Path) -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "from rlm_wasm.artifacts.machine_key import machine_key\n"
        "from rlm_wasm.errors import ArtifactError\n"
        "try: machine_key()\n"
        "except ArtifactError as error: print(error, '|', error.hint)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "machine.key" in ended.stdout, ended.stderr
    assert "RLM_WASM_STATE" in ended.stdout
    assert os.listdir(own_folders / "state") == []


PARTS = st.lists(st.binary(max_size=8), max_size=4)


@given(one=PARTS, other=PARTS)
def test_a_mac_tells_how_its_parts_were_divided(one: list[bytes], other: list[bytes]) -> None:
    key = bytes(KEY_BYTES)
    assert same(mac(key, "p", *one), mac(key, "p", *other)) == (one == other)


def test_a_mac_depends_on_key_and_purpose() -> None:
    key = bytes(KEY_BYTES)
    macs = {mac(key, "p", b"x"), mac(key, "q", b"x"), mac(b"k" * KEY_BYTES, "p", b"x")}
    assert len(macs) == 3
