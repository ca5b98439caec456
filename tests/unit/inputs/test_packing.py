"""Packed inputs: what comes out is what went in, within limits, and hostile data is one typed error."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import InputDamaged, InputError, InputTooLarge
from rlm_wasm.inputs.packing import Packing, packing_of, unpacked
from rlm_wasm.system.zstd import ZstdCompressor
from tests.unit.inputs.calm import CALM

PACK: dict[Packing, Callable[[bytes], bytes]] = {
    Packing.GZIP: lambda data: gzip.compress(data, mtime=0),
    Packing.ZSTD: lambda data: ZstdCompressor().compress(data, ZstdCompressor.FLUSH_FRAME),
    Packing.BZIP2: bz2.compress,
    Packing.XZ: lzma.compress,
}
EACH = pytest.mark.parametrize("packing", list(Packing))


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def unpack(
    packing: Packing,
    data: bytes,
    *,
    bytes_max: int = 1 << 26,
    ratio_max: int = 1_000_000,
    size: int = 1 << 20,
) -> bytes:
    pieces = in_pieces(data, size)
    out = unpacked(packing, pieces, "f", bytes_max=bytes_max, key="some.key", ratio_max=ratio_max)
    return b"".join(out)


@CALM
@given(
    packing=st.sampled_from(list(Packing)),
    texts=st.lists(st.binary(max_size=2_000), min_size=1, max_size=4),
    size=st.integers(1, 300),
)
def test_streams_that_follow_each_other_come_out_whole_in_whatever_pieces(
    packing: Packing, texts: list[bytes], size: int
) -> None:
    packed = b"".join(map(PACK[packing], texts))
    assert unpack(packing, packed, size=size) == b"".join(texts)


@EACH
def test_what_takes_many_pieces_comes_out_whole(packing: Packing) -> None:
    data = bytes(range(256)) * 9_000
    assert unpack(packing, PACK[packing](data)) == data


@EACH
@pytest.mark.threat("T-211")
def test_a_file_that_is_cut_off_is_damaged(packing: Packing) -> None:
    packed = PACK[packing](b"some words, and some more words")
    for end in range(len(packed)):
        with pytest.raises(InputDamaged):
            unpack(packing, packed[:end])


@EACH
@pytest.mark.threat("T-211")
def test_rubbish_after_a_stream_is_damage_and_zeros_are_not(packing: Packing) -> None:
    packed = PACK[packing](b"words")
    assert unpack(packing, packed + b"\0" * 512) == b"words"
    with pytest.raises(InputDamaged, match=r"^f is not .* data: it is (damaged|cut off)"):
        unpack(packing, packed + b"rubbish")


@CALM
@given(
    packing=st.sampled_from(list(Packing)),
    rubbish=st.binary(max_size=300),
    flips=st.lists(st.integers(0, 10_000), max_size=4),
)
@pytest.mark.threat("T-211")
def test_only_errors_of_ours_come_out_of_damaged_data(
    packing: Packing, rubbish: bytes, flips: list[int]
) -> None:
    damaged = bytearray(PACK[packing](rubbish + b"words" * 50))
    for flip in flips:
        damaged[flip % len(damaged)] ^= 1 << flip % 8
    for data in (bytes(damaged), packing.magic + rubbish):
        with contextlib.suppress(InputError):  # any other ends the test
            assert len(unpack(packing, data, bytes_max=100_000)) <= 100_000


@EACH
@pytest.mark.threat("T-210")
def test_a_bomb_ends_at_the_ratio_and_costs_its_first_pieces(packing: Packing) -> None:
    bomb = PACK[packing](bytes(24 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLarge, match=r"more than 200 times its size.*inputs\.ratio_max") as caught:
            unpack(packing, bomb, ratio_max=200, bytes_max=1 << 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.key, caught.value.limit) == ("inputs.ratio_max", 200)
    assert peak < 40 << 20


@EACH
@pytest.mark.threat("T-210")
def test_a_bomb_ends_at_the_bytes(packing: Packing) -> None:
    bomb = PACK[packing](bytes(8 << 20))
    with pytest.raises(InputTooLarge, match=r"larger than the 5000000 bytes that some\.key allows") as caught:
        unpack(packing, bomb, bytes_max=5_000_000)
    assert (caught.value.key, caught.value.limit) == ("some.key", 5_000_000)


@EACH
def test_a_short_text_of_blanks_is_no_bomb(packing: Packing) -> None:
    assert len(unpack(packing, PACK[packing](b" " * 1_000_000), ratio_max=1)) == 1_000_000


@pytest.mark.threat("T-210")
def test_a_frame_that_wants_a_gibibyte_of_memory_to_be_unpacked_is_refused() -> None:
    # A zstd frame's header with a window of 2 GiB, and one empty last block.
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(InputTooLarge, match="bytes of memory that unpacking may take"):
        unpack(Packing.ZSTD, frame)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    with pytest.raises(InputTooLarge, match="bytes of memory that unpacking may take"):
        unpack(Packing.XZ, lzma.compress(b"x", filters=filters))


@EACH
def test_a_packing_is_known_by_its_name_or_by_its_beginning(packing: Packing) -> None:
    head = PACK[packing](b"x")[:10]
    assert packing_of("a" + packing.suffix, b"") is packing
    assert packing_of("A.TXT" + packing.suffix.upper(), b"plain") is packing
    assert packing_of("-", head) is packing
    assert packing_of("a.txt", head[1:]) is None


def test_a_text_that_begins_like_bzip2_is_a_text() -> None:
    assert packing_of("a.txt", b"BZh9 is the beginning") is None
    assert packing_of("a", bz2.compress(b"")) is Packing.BZIP2
