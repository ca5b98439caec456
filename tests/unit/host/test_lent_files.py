"""Memory files that a host lends to a worker: none can grow, all are counted, and each is taken back."""

from __future__ import annotations

import mmap
import os
import resource
import signal
from collections.abc import Callable

import pytest

from rlm_wasm.errors import BoundaryViolation, HostExhausted
from rlm_wasm.host.lent_files import LentFiles
from rlm_wasm.system.memfd import Arena, MemoryFile
from tests.support.descriptors import descriptors_left

pytestmark = [pytest.mark.usefixtures("healthy_host")]

MIB = 1 << 20


def filled(file: MemoryFile, size: int = 4 * MIB) -> mmap.mmap:
    """Do what a worker may do to keep a file: fill it, and map one page of it."""
    os.pwrite(file.fd, b"x" * size, 0)
    return mmap.mmap(file.fd, 4_096, flags=mmap.MAP_PRIVATE)


@pytest.mark.threat("T-124")
@pytest.mark.parametrize("lend", [LentFiles.arena, lambda lent: lent.for_image(1, 8 * MIB)])
def test_a_lent_file_cannot_grow_and_is_counted(lend: Callable[[LentFiles], MemoryFile]) -> None:
    lent = LentFiles()
    file = lend(lent)
    assert lent.bytes_held == 0
    size = os.fstat(file.fd).st_size
    for grow in (lambda: os.ftruncate(file.fd, 2 * size), lambda: os.pwrite(file.fd, b"x", size)):
        with pytest.raises(PermissionError):
            grow()
    with filled(file):
        assert lent.bytes_held == 4 * MIB


@pytest.mark.threat("T-124")
def test_what_a_worker_keeps_mapped_is_freed_when_its_operation_is_over() -> None:
    lent = LentFiles()
    value = MemoryFile.of_parts("rlm-test", MIB, [(0, memoryview(b"x" * MIB))], revocable=True)
    lent.input(1, value)
    image = lent.for_image(2, 8 * MIB)
    with pytest.raises(PermissionError):
        os.pwrite(value.fd, b"y", 0)
    with mmap.mmap(value.fd, 4_096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ), filled(image):
        assert lent.bytes_held == 5 * MIB
        lent.take_back(1)
        assert lent.bytes_held == 4 * MIB
        lent.take_back(2)
        assert (value.bytes_held, image.bytes_held, lent.bytes_held) == (0, 0, 0)


def test_an_image_that_was_made_is_its_hosts_and_nobody_takes_it_back() -> None:
    lent = LentFiles()
    made = lent.for_image(1, 8 * MIB)
    with filled(made):
        assert lent.image_made(1) is made
        lent.take_back(1)
        assert made.bytes_held == 4 * MIB
        assert lent.bytes_held == 0


@pytest.mark.threat("T-144")
def test_a_file_that_its_worker_sealed_is_let_go_of_with_the_worker_and_taken_for_nothing_else() -> None:
    lent = LentFiles()
    for session in (1, 2):
        lent.for_image(session, MIB).seal()
    with pytest.raises(BoundaryViolation, match="sealed"):
        lent.take_back(1)
    lent.arena()
    lent.close()
    assert lent.bytes_held == 0


@pytest.mark.threat("T-124")
def test_parts_of_an_arena_do_not_meet_and_are_freed_one_by_one() -> None:
    lent = LentFiles()
    file = lent.arena()
    arena = Arena(file)
    parts = [arena.take(size) for size in (5, 70_000, 65_536)]
    assert [base for _, base in parts] == [0, 65_536, 196_608]
    for fd, base in parts:
        os.pwrite(fd, b"x" * 4_096, base)
    assert lent.bytes_held == 3 * 4_096
    arena.free(65_536, 70_000)
    assert lent.bytes_held == 2 * 4_096
    assert os.pread(file.fd, 1, 196_608) == b"x"
    with pytest.raises(OSError, match="No space left"):
        arena.take(1 << 50)


def test_what_is_lent_is_no_larger_than_a_file_of_this_process_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))
    # Python ignores it; a program that embeds one need not.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        lent = LentFiles()
        assert os.fstat(lent.arena().fd).st_size == 4 * MIB
        assert os.fstat(lent.for_image(1, 8 * MIB).fd).st_size == 4 * MIB
        with pytest.raises(OSError, match="File too large"):
            MemoryFile.of_parts("rlm-runs", 5 * MIB, ())
        with pytest.raises(OSError, match="File too large"):
            MemoryFile.draft("rlm-layer", 5 * MIB)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_worker_that_is_gone_leaves_no_descriptor() -> None:
    lent = LentFiles()
    before = len(os.listdir("/proc/self/fd"))
    lent.arena()
    lent.for_image(1, MIB)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    lent.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_the_host_has_no_descriptor_for_is_a_typed_error_and_nothing_is_lent() -> None:
    lent = LentFiles()
    with descriptors_left(0):
        with pytest.raises(HostExhausted, match="Too many open files"):
            lent.for_image(1, MIB)
        with pytest.raises(HostExhausted, match="Too many open files"):
            lent.arena()
    assert lent.bytes_held == 0
