"""Sealed memory files: nobody who holds the descriptor can change them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import ArtifactError
from rlm_wasm.system import memfd
from rlm_wasm.system.memfd import ALL_SEALS, check_sealed, sealed_memfd
from tests.support.wat_guest import program_of


@pytest.fixture
def fd() -> Iterator[int]:
    made = sealed_memfd("test", b"contents" + bytes(100_000) + b"end")
    yield made
    os.close(made)


@given(parts=st.lists(st.tuples(st.binary(max_size=5), st.integers(0, 200_000)), max_size=4))
def test_contents_are_what_was_given_holes_included(parts: list[tuple[bytes, int]]) -> None:
    data = b"".join(part + bytes(zeros) for part, zeros in parts)
    made = sealed_memfd("test", data)
    try:
        assert os.pread(made, len(data) + 1, 0) == data
    finally:
        os.close(made)


def test_zeros_cost_no_memory() -> None:
    made = sealed_memfd("test", bytes(64 << 20) + b"x" * 65_536)
    try:
        assert os.fstat(made).st_blocks * 512 < 1 << 20
    finally:
        os.close(made)


@pytest.mark.threat("T-015")
def test_every_change_fails(fd: int) -> None:
    size = os.fstat(fd).st_size
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    for length in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, length)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, 1033, 0)  # a further seal
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 0)
    finally:
        os.close(again)
    private = mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    private[0:1] = b"X"
    private.close()
    assert os.pread(fd, 8, 0) == b"contents"


@pytest.mark.threat("T-015")
def test_the_image_of_a_program_is_sealed_before_its_first_use() -> None:
    with program_of("") as program:
        assert fcntl.fcntl(program.image.fd, 1034) & ALL_SEALS == ALL_SEALS
        with pytest.raises(PermissionError):
            os.pwrite(program.image.fd, b"x", 0)
        assert not os.get_inheritable(program.image.fd)


@pytest.mark.threat("T-051")
@pytest.mark.parametrize("missing", [1, 2, 4, 8, 15])
def test_a_memory_file_that_lacks_a_seal_is_not_taken(missing: int) -> None:
    made = os.memfd_create("half", os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(made, 1033, ALL_SEALS & ~missing)
        with pytest.raises(ArtifactError, match="not sealed"):
            check_sealed(made)
    finally:
        os.close(made)


@pytest.mark.threat("T-051")
def test_another_kind_of_file_is_not_taken(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(ArtifactError):
        check_sealed(file.fileno())


def test_a_sealed_file_is_taken(fd: int) -> None:
    check_sealed(fd)


@pytest.mark.parametrize("busy", [1, 3])
def test_a_file_that_is_busy_for_a_moment_is_sealed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, busy: int
) -> None:
    """What keeps a page busy is the kernel's affair; here it is a mapping, which goes after some tries."""
    mappings: list[mmap.mmap] = []
    refused: list[OSError] = []
    real = fcntl.fcntl

    def asked(fd: int, command: int, argument: int = 0) -> int:
        if command == memfd._F_ADD_SEALS and not mappings and not refused:
            mappings.append(mmap.mmap(fd, 4096, mmap.MAP_SHARED))
        try:
            return real(fd, command, argument)
        except OSError as error:
            refused.append(error)
            if len(refused) == busy:
                mappings.pop().close()
            raise

    monkeypatch.setattr(memfd.fcntl, "fcntl", asked)
    made = sealed_memfd("test", b"x" * 4096)
    monkeypatch.undo()
    check_sealed(made)
    os.close(made)
    assert [error.errno for error in refused] == [errno.EBUSY] * busy


def test_a_file_that_stays_busy_is_an_error() -> None:
    file = memfd.MemoryFile.blank("test", 4096, may_be_sealed=True)
    with mmap.mmap(file.fd, 4096, mmap.MAP_SHARED), pytest.raises(OSError, match="busy"):
        file.seal()
