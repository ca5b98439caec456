"""The list of files of a zip archive: counted before it is parsed, and the same one that `zipfile` reads."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.images.zip_directory import require_few_files

FILES_MAX = 100
ENTRY = (
    struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
)


def end(entries: int, length: int, start: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, length, start, len(comment)) + comment


def archive(count: int, comment: bytes = b"") -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w") as writer:
        for number in range(count):
            writer.writestr(f"folder/{number}.py", b"x = 1\n")
        writer.comment = comment
    return made.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(GuestBuildError) as caught:
        require_few_files(io.BytesIO(data), "x.whl", FILES_MAX)
    return caught.value.message


@pytest.mark.parametrize("comment", [b"", b"made by hand", b"z" * 65535])
def test_an_archive_of_as_many_files_as_are_allowed_is_let_through(comment: bytes) -> None:
    require_few_files(io.BytesIO(archive(FILES_MAX, comment)), "x.whl", FILES_MAX)
    assert "at most 100" in refused(archive(FILES_MAX + 1, comment))


@pytest.mark.threat("T-270")
@pytest.mark.parametrize("said", [0, 1, 65535])
def test_files_are_counted_and_not_believed(said: int) -> None:
    listed = ENTRY * (FILES_MAX + 1)
    assert "at most 100" in refused(listed + end(said, len(listed), 0))


@pytest.mark.threat("T-270")
def test_an_archive_made_for_very_many_files_is_refused_by_its_end() -> None:
    listed = ENTRY * 3
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(listed), 0)
    place = struct.pack("<4sLQL", b"PK\6\7", 0, len(listed), 1)
    data = listed + large + place + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    assert len(zipfile.ZipFile(io.BytesIO(data)).infolist()) == 3
    assert "more files than a wheel has" in refused(data)
    assert "more files than a wheel has" in refused(listed + large + place + end(3, len(listed), 0))


@pytest.mark.threat("T-270")
def test_a_list_of_long_entries_is_refused_by_its_length() -> None:
    long = ENTRY[:30] + struct.pack("<H", 60_000) + ENTRY[32:] + bytes(60_000)
    assert "too long a list" in refused(long + end(1, len(long), 0))


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"x" * 100, b"PK\5\6", archive(2)[:-1], end(1, 50, 0), b"y" * 47 + end(1, 47, 0)]
)
def test_what_is_no_archive_is_one_line(data: bytes) -> None:
    assert refused(data).startswith("x.whl is damaged: ")


END = st.builds(
    end, st.integers(0, 3), st.sampled_from([0, 47, 94, 22, 69]), st.integers(0, 99), st.binary(max_size=9)
)


@pytest.mark.threat("T-270")
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.just(ENTRY), END, st.sampled_from([b"", b"PK\5\6", b"\0\0", b"PK\6\7"])), max_size=8
    )
)
@example([ENTRY, ENTRY, end(1, 47, 0, end(1, 94, 0))])
def test_whatever_zipfile_lists_was_counted(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        found = len(zipfile.ZipFile(io.BytesIO(data)).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return
    if found:
        with pytest.raises(GuestBuildError):
            require_few_files(io.BytesIO(data), "x.whl", found - 1)
