"""The dirty pages of a private mapping: what a session wrote since it was mapped.

The kernel tells through /proc/self/pagemap: a page of a private file mapping becomes anonymous when
it is written. Linux 6.7 and later answer for a whole range in one call (PAGEMAP_SCAN); before
that, the 8 bytes of each page are read. An answer that misses a page would be a silently broken
snapshot, so each way proves itself on a mapping made for it before it is used; where neither does,
every page counts as written.

Sources: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from rlm_wasm.system.memfd import sealed_memfd

PAGE: Final = mmap.PAGESIZE
Range = tuple[int, int]

_PAGEMAP_SCAN: Final = 0xC060_6610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT: Final = struct.Struct("<12Q")
# Where it begins and ends; what its pages are was asked for.
_REGION: Final = struct.Struct("<2Q8x")
_REGIONS_A_CALL: Final = 1024
_FILE, _PRESENT, _SWAPPED, _ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_FILE = 1 << 63, 1 << 62, 1 << 61


def written_ranges(address: int, length: int) -> list[Range]:
    """Return (offset, length) of the stretches of [address, address + length) with pages of their own.

    Both are multiples of the page size; the stretches are in order and do not touch.
    """
    return _chosen()(address, length)


def _scan(address: int, length: int) -> list[Range]:
    regions = ctypes.create_string_buffer(_REGION.size * _REGIONS_A_CALL)
    found: list[tuple[int, int]] = []
    start, end = address, address + length
    with _pagemap() as fd:
        while start < end:
            argument = bytearray(
                _ARGUMENT.pack(
                    _ARGUMENT.size,
                    0,
                    start,
                    end,
                    0,
                    ctypes.addressof(regions),
                    _REGIONS_A_CALL,
                    0,
                    _FILE | _ZERO,
                    _FILE | _ZERO,
                    _PRESENT | _SWAPPED,
                    _PRESENT | _SWAPPED,
                )
            )
            count = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
            found += _REGION.iter_unpack(memoryview(regions)[: count * _REGION.size])
            walked = _ARGUMENT.unpack(argument)[4]
            if walked <= start:
                raise OSError("PAGEMAP_SCAN does not advance")
            start = walked
    return _joined(found, address)


def _read(address: int, length: int) -> list[Range]:
    with _pagemap() as fd:
        data = os.pread(fd, length // PAGE * 8, address // PAGE * 8)
    if len(data) != length // PAGE * 8:
        raise OSError("/proc/self/pagemap was read short")
    return _joined(
        (index * PAGE, index * PAGE + PAGE)
        for index, entry in enumerate(memoryview(data).cast("Q"))
        if entry & _ENTRY_SWAPPED or (entry & _ENTRY_PRESENT and not entry & _ENTRY_FILE)
    )


def _everything(address: int, length: int) -> list[Range]:
    return [(0, length)]


def _joined(spans: Iterable[tuple[int, int]], base: int = 0) -> list[Range]:
    """Return (offset from `base`, length) of what begins and ends there, in order; none is empty."""
    joined: list[Range] = []
    start = end = base
    for low, high in spans:
        if low != end:
            if end != start:
                joined.append((start - base, end - start))
            start = low
        end = high
    if end != start:
        joined.append((start - base, end - start))
    return joined


_way: Callable[[int, int], list[Range]] | None = None
_held: int | None = None
# What a way is proven on in a process that can make no file; there, the guest's image.
_sample: int | None = None


@contextlib.contextmanager
def _pagemap() -> Iterator[int]:
    """Give a descriptor of this process's pagemap: the one that is held, or one for this once."""
    if _held is not None:
        yield _held
        return
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def hold_pagemap(fd: int, sample: int) -> None:
    """Use `fd` from now on, in a process that will not be able to open its pagemap, nor to make a file.

    `sample` is a memory file of at least 16 pages.

    Opened before a fork it would describe the parent, and every snapshot would silently be empty: so the
    first snapshot chooses its way anew, by what each proves in this process.
    """
    global _held, _way, _sample
    _held, _way, _sample = fd, None, sample


def _chosen() -> Callable[[int, int], list[Range]]:
    global _way
    if _way is None:
        _way = next((way for way in (_scan, _read) if _proves_itself(way)), _everything)
    return _way


def way_in_use() -> str:
    """Return the name of the way this machine allows: scan, read or everything."""
    return _chosen().__name__.lstrip("_")


def present_ranges(address: int, length: int) -> list[Range]:
    """Return (offset, length) of the stretches that are mapped now, read or written; for advice only."""
    with _pagemap() as fd:
        data = os.pread(fd, length // PAGE * 8, address // PAGE * 8)
    return _joined(
        (index * PAGE, index * PAGE + PAGE)
        for index, entry in enumerate(memoryview(data).cast("Q"))
        if entry & _ENTRY_PRESENT
    )


def _proves_itself(way: Callable[[int, int], list[Range]]) -> bool:
    """Whether `way` finds exactly the pages written in a private mapping of a memory file."""
    pages = 16
    own = sealed_memfd("rlm-self-test", b"\x01" * (pages * PAGE)) if _sample is None else None
    fd = own if own is not None else _sample
    assert fd is not None
    try:
        # Kept private by ctypes' view of it; a copy-on-write mapping is what sessions have.
        with mmap.mmap(
            fd, pages * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        ) as area:
            address = ctypes.addressof(ctypes.c_char.from_buffer(area))
            before = [area[k * PAGE] for k in range(pages)]  # read: mapped, not written
            for at in (3 * PAGE, 4 * PAGE + 5, 9 * PAGE + 17):
                area[at] ^= 1
            try:
                found = way(address, pages * PAGE)
            except OSError:
                return False
            return len(before) == pages and found == [(3 * PAGE, 2 * PAGE), (9 * PAGE, PAGE)]
    except BufferError:
        return False
    finally:
        if own is not None:
            os.close(own)
