"""An image file is read back whole, by its own guest, tenant and key, or not at all."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_wasm.artifacts import snapshot_file
from rlm_wasm.artifacts.snapshot_file import read_snapshot_file, write_snapshot_file
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.system.zstd import CompressionParameter, ZstdCompressor

KEY = bytes(range(32))
GUEST = ("c" * 64, "i" * 64)
SIZE = 64 * 65_536
PAGE = 4_096
RUNS = ((0, b"a" * PAGE), (5 * PAGE, bytes(range(256)) * 32), (SIZE - PAGE, b"z" * PAGE))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "session.image"
    write_snapshot_file(path, KEY, guest=GUEST, tenant="one", size=SIZE, virtual_ns=5, runs=RUNS)
    return path


def opened(path: Path, *, key: bytes = KEY, guest: tuple[str, str] = GUEST, tenant: str = "one"):
    return read_snapshot_file(path, key, guest=guest, tenant=tenant)


def test_what_was_saved_comes_back(saved: Path):
    header, runs = opened(saved)
    assert runs == RUNS
    assert (header.size, header.virtual_ns, header.tenant) == (SIZE, 5, "one")
    assert saved.stat().st_mode & 0o777 == 0o600


def test_contents_are_not_readable_in_the_file(tmp_path: Path):
    path = tmp_path / "secret"
    secret = b"the-magic-word".ljust(PAGE, b".")
    write_snapshot_file(path, KEY, guest=GUEST, tenant="", size=SIZE, virtual_ns=0, runs=((0, secret),))
    assert b"the-magic-word" not in path.read_bytes()


def test_the_same_state_saved_twice_gives_different_bytes(saved: Path, tmp_path: Path):
    again = tmp_path / "again"
    write_snapshot_file(again, KEY, guest=GUEST, tenant="one", size=SIZE, virtual_ns=5, runs=RUNS)
    assert again.read_bytes() != saved.read_bytes()


@pytest.mark.threat("T-030")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": bytes(32)}, "key"),
        ({"tenant": "two"}, "tenant"),
        ({"guest": ("d" * 64, "i" * 64)}, "guest build"),
        ({"guest": ("c" * 64, "j" * 64)}, "guest build"),
    ],
)
def test_another_key_tenant_or_guest_is_refused(saved: Path, change, why):
    with pytest.raises(ArtifactError, match=why):
        opened(saved, **change)


@pytest.mark.threat("T-030")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_refused(saved: Path, data: st.DataObject):
    content = bytearray(saved.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = saved.with_name("changed")
    changed.write_bytes(content)
    changed.chmod(0o600)
    with pytest.raises(ArtifactError):
        opened(changed)


@pytest.mark.threat("T-030")
def test_any_truncation_is_refused(saved: Path):
    content = saved.read_bytes()
    for length in [0, 1, 8, 12, 40, *range(100, len(content), 97), len(content) - 1]:
        saved.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            opened(saved)


@pytest.mark.threat("T-030")
def test_chunks_cannot_be_swapped_dropped_or_repeated(tmp_path: Path):
    path = tmp_path / "large"
    noise = b"".join(hashlib.blake2b(bytes([k % 256, k // 256])).digest() for k in range(PAGE * 900 // 64))
    write_snapshot_file(path, KEY, guest=GUEST, tenant="one", size=SIZE, virtual_ns=0, runs=((0, noise),))
    content = path.read_bytes()
    start = content.index(b"}") + 1
    whole = (1 << 20) + 16
    chunks = [content[start + k * whole : start + (k + 1) * whole] for k in range(4)]
    assert all(chunks)
    assert opened(path)[1] == ((0, noise),)
    for order in ([1, 0, 2, 3], [0, 1, 2], [0, 2, 3], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3]):
        path.write_bytes(content[:start] + b"".join(chunks[k] for k in order))
        with pytest.raises(ArtifactError):
            opened(path)


@pytest.mark.parametrize(
    "runs",
    [
        ((1, b"x" * PAGE),),
        ((0, b"x" * 100),),
        ((0, b""),),
        ((SIZE, b"x" * PAGE),),
        ((PAGE, b"x" * PAGE), (0, b"y" * PAGE)),
        ((0, b"x" * 2 * PAGE), (PAGE, b"y" * PAGE)),
    ],
)
def test_runs_that_do_not_fit_a_memory_are_refused_even_with_the_right_key(tmp_path: Path, runs):
    path = tmp_path / "wrong"
    write_snapshot_file(path, KEY, guest=GUEST, tenant="one", size=SIZE, virtual_ns=0, runs=runs)
    with pytest.raises(ArtifactError):
        opened(path)


@pytest.mark.parametrize(
    "change",
    [
        {"payload_bytes": 1 << 40},
        {"size": 1 << 40},
        {"size": -65_536},
        {"size": True},
        {"salt": "zz"},
        {"extra": 1},
    ],
)
def test_an_impossible_header_is_refused_before_anything_is_opened(saved: Path, change, monkeypatch):
    monkeypatch.setattr(snapshot_file, "_opened", lambda *_: pytest.fail("the contents were opened"))
    content = saved.read_bytes()
    header = json.loads(content[content.index(b"{") : content.index(b"}") + 1])
    text = json.dumps(header | change).encode()
    saved.write_bytes(b"RLMIMAGE" + len(text).to_bytes(4, "little") + text)
    with pytest.raises(ArtifactError):
        opened(saved)


def sealed(path: Path, payload: bytes, window_log: int = 21, **header: int) -> None:
    """Write an image that whoever has the key could write: any stream under any header."""
    stream = ZstdCompressor(options={CompressionParameter.window_log: window_log})
    # In two steps: who knows the size beforehand takes a smaller window.
    packed = stream.compress(payload) + stream.flush()
    facts = dict(format=1, tenant="one", size=SIZE, virtual_ns=0, payload_bytes=len(payload), salt="00" * 32)
    facts |= dict(code_sha256=GUEST[0], image_sha256=GUEST[1]) | header
    made = snapshot_file.SnapshotHeader(**facts)
    text = json.dumps(facts, sort_keys=True).encode()
    cipher = snapshot_file._cipher(KEY, made, text)
    chunk = cipher.encrypt(snapshot_file._nonce(0, last=True), packed, None)
    path.write_bytes(b"RLMIMAGE" + len(text).to_bytes(4, "little") + text + chunk)
    path.chmod(0o600)


@pytest.mark.threat("T-173")
@pytest.mark.parametrize(
    ("payload_bytes", "run"),
    [
        (PAGE + 16, PAGE),  # what follows the run that was promised
        (SIZE + 16, SIZE),
        (SIZE + 16, 64 << 20),
        (1, 64 << 20),
    ],
)
def test_what_is_decompressed_ends_where_the_headers_size_does(tmp_path: Path, payload_bytes: int, run: int):
    """Some KiB that would be 64 MiB, under the right key."""
    path = tmp_path / "bomb"
    head = (0).to_bytes(8, "little") + run.to_bytes(8, "little")
    sealed(path, head + bytes(64 << 20), payload_bytes=payload_bytes)
    assert path.stat().st_size < 64 << 10
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=r"run outside|says"):
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * SIZE
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T-173")
def test_an_image_of_a_larger_memory_than_is_allowed_is_not_opened(saved: Path, monkeypatch):
    monkeypatch.setattr(snapshot_file, "_opened", lambda *_: pytest.fail("the contents were opened"))
    with pytest.raises(ArtifactError, match="at most 65536 are allowed"):
        read_snapshot_file(saved, KEY, guest=GUEST, tenant="one", memory_bytes_max=65_536)
    saved.write_bytes(saved.read_bytes() + bytes(8 << 20))
    with pytest.raises(ArtifactError, match="bytes; at most"):
        read_snapshot_file(saved, KEY, guest=GUEST, tenant="one", memory_bytes_max=SIZE)


def test_a_window_that_we_would_not_write_is_refused(tmp_path: Path):
    path = tmp_path / "window"
    sealed(path, bytes(PAGE + 16), window_log=27)
    with pytest.raises(ArtifactError, match="does not decompress"):
        opened(path)


def test_a_key_of_another_length_is_a_usage_error(saved: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="32 bytes"):
        opened(saved, key=b"short")
    with pytest.raises(UsageError, match="32 bytes"):
        write_snapshot_file(tmp_path / "x", b"", guest=GUEST, tenant="", size=SIZE, virtual_ns=0, runs=())


def test_a_missing_file_says_so(tmp_path: Path):
    with pytest.raises(ArtifactError, match="does not exist"):
        opened(tmp_path / "none")
