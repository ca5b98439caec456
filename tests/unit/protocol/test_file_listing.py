"""What a guest says of its files is typed and bounded, whatever it says."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, UsageError
from rlm_wasm.protocol.file_listing import GuestFile, decode_listing, decode_part, guest_path


def listing(*paths: bytes, **over: Any) -> bytes:
    count = len(paths)
    columns = {
        "paths": [path.hex() for path in paths], "kinds": "f" * count, "sizes": [1] * count,
        "modified_ns": [2] * count,
    }  # fmt: skip
    return json.dumps(columns | over).encode()


def test_a_listing_is_what_the_guest_says_of_each_path() -> None:
    frame = listing(b"/", b"/out", b"/out/\xff", kinds="dlf")
    assert decode_listing(frame, entries_max=3) == (
        GuestFile("/", "folder", 1, 2),
        GuestFile("/out", "link", 1, 2),
        GuestFile("/out/\udcff", "file", 1, 2),
    )
    assert guest_path("/out/\udcff") == b"/out/\xff"


@pytest.mark.threat("T-110")
@pytest.mark.parametrize(
    "frame",
    [
        b"", b"[]", b"{}", b"\xff", listing(b"out"), listing(b""), listing(b"/../etc/passwd"),
        listing(b"/a/../b"),
        listing(b"/a//b"), listing(b"/a/"), listing(b"/."), listing(b"/a\0b"), listing(b"/" + b"a" * 256),
        listing(b"/a" * 2_100), listing(b"/a", kinds="x"), listing(b"/a", kinds="ff"),
        listing(b"/a", sizes=[]),
        listing(b"/a", sizes=[-1]), listing(b"/a", sizes=[1.5]), listing(b"/a", sizes=[1 << 40]),
        listing(b"/a", modified_ns=[-1]), listing(b"/a", modified_ns=[-(10**30)]),
        listing(b"/a", modified_ns=[1 << 63]), listing(b"/a", modified_ns=[10**4_000]),
        listing(b"/a", modified_ns=["x"]), listing(b"/a", more=1), listing(b"/a", paths=["2f6"]),
        listing(*[b"/a"] * 11), b"[" * 100_000, b'{"paths":' * 1_000, b" " * 1_000_000,
    ],
)  # fmt: skip
def test_a_listing_that_is_none_is_a_violation(frame: bytes) -> None:
    with pytest.raises(BoundaryViolation):
        decode_listing(frame, entries_max=10)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_nothing_but_a_violation_comes_out_of_any_bytes(frame: bytes) -> None:
    for decode in (lambda: decode_listing(frame, entries_max=4), lambda: decode_part(frame, bytes_max=100)):
        with contextlib.suppress(BoundaryViolation):
            decode()


def test_a_part_has_at_most_what_was_asked_for() -> None:
    assert decode_part(base64.b64encode(bytes(100)), bytes_max=100) == bytes(100)
    assert decode_part(b"", bytes_max=0) == b""
    for frame in (base64.b64encode(bytes(101)), b"=", b"AA=A", b"\xef\xbf\xbd", b"AAAA\n"):
        with pytest.raises(BoundaryViolation):
            decode_part(frame, bytes_max=100)


@pytest.mark.parametrize("path", ["", "out", "a/b", "/a\0", "/" + "a" * 4_095, "/\ud800", b"/a", None, 3])
def test_a_path_for_a_guest_is_absolute_text(path: object) -> None:
    with pytest.raises(UsageError):
        guest_path(path)
