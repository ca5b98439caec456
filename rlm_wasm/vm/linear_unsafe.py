"""Linear memory that we own: wasmtime asks us for it, and we map it copy-on-write over an image.

Unsafe: the addresses returned here are used by compiled code without bounds checks. Every system
call is checked, every failure is returned to wasmtime as an error object, and `fatal.guarded` ends
the process should anything else happen.

Layout of one memory, `reserved + guard` bytes of address space:

    base                 base + image.size        base + size           base + reserved + guard
    | image, private     | zeros, after growth    | no access                                 |
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import _bindings as ffi

from rlm_wasm.vm.fatal import die, guarded

PAGE_BYTES: Final = 65_536
RESERVED_BYTES: Final = 4 << 30
GUARD_BYTES_MIN: Final = 32 << 20
_PROT_NONE, _PROT_READ_WRITE = 0, 3
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x02, 0x10, 0x20, 0x4000
_MADV_HUGEPAGE: Final = 14
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_HUGE_GROWTH_BYTES: Final = 4 << 20
# What is populated between two polls: half a millisecond, ten of them where the machine itself lacks memory.
_POPULATED_AT_ONCE: Final = 4 << 20
MAP_FAILED: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Overlay:
    """A stretch of pages of a memory file, at the same offset from its `base` as in the memory of theirs.

    `owner` keeps what they are for as long as this object lives.
    """

    fd: int
    offset: int
    length: int
    owner: object = None
    base: int = 0

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class ImageSource:
    """What a memory starts from: a sealed memory file, then zeros up to `size`, a multiple of 64 KiB.

    `file_bytes` of the file, from `base` on, are mapped, a multiple of 64 KiB too; then `over`, in order.
    `owner` keeps them for as long as this object lives, which is as long as they are mapped.
    """

    fd: int
    file_bytes: int
    size: int
    owner: object = None
    over: tuple[Overlay, ...] = ()
    base: int = 0


class LinearMemory:
    """Our own record of one mapping. wasmtime's idea of it must agree after every growth."""

    __slots__ = ("base", "closed", "populated", "reserved", "size", "total", "wants_populating")

    def __init__(self, base: int, size: int, reserved: int, total: int) -> None:
        self.base = base
        self.size = size
        self.reserved = reserved
        self.total = total
        self.closed = False
        # Up to here its pages are there, or were left to come one by one.
        self.populated = size
        # Whether so much was added that the guest should not meet all of its page faults in one slice.
        self.wants_populating = False

    def grew_to(self, size: int) -> None:
        """Note the new size; its pages can be used."""
        self.size = size
        self.wants_populating = size - self.populated >= _HUGE_GROWTH_BYTES

    def populate(self) -> None:
        """Take the page faults of the next piece of what was added."""
        piece = min(_POPULATED_AT_ONCE, self.size - self.populated)
        system.madvise_populate(self.base + self.populated, piece, write=True)
        self.populated += piece
        self.wants_populating = self.size - self.populated >= _HUGE_GROWTH_BYTES

    def lay_over(self, overlay: Overlay) -> bool:
        """Map pages of a file where the memory has the same contents; False if the kernel does not.

        The memory may lack these pages then, and must not be used again.
        """
        if overlay.end > self.size or os.fstat(overlay.fd).st_size < overlay.base + overlay.end:
            die("an overlay is outside its memory or its file")
        return _map_over(self.base, overlay)


class SystemCalls:
    """The system calls used here, in one object so that a test can make each of them fail."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap = libc.mmap
        self._mmap.restype = ctypes.c_uint64
        self._mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._munmap = libc.munmap
        self._munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._mprotect = libc.mprotect
        self._mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def mmap(self, address: int, length: int, protection: int, flags: int, fd: int, offset: int = 0) -> int:
        """Return the address, or MAP_FAILED."""
        return int(self._mmap(address, length, protection, flags, fd, offset))

    def munmap(self, address: int, length: int) -> int:
        """Return 0, or -1."""
        return int(self._munmap(address, length))

    def mprotect(self, address: int, length: int, protection: int) -> int:
        """Return 0, or -1."""
        return int(self._mprotect(address, length, protection))

    def madvise_huge(self, address: int, length: int) -> None:
        """Ask for huge pages; advice only, so its result does not matter."""
        self._madvise(address, length, _MADV_HUGEPAGE)

    def madvise_populate(self, address: int, length: int, *, write: bool) -> None:
        """Take the page faults of a range now; advice only (Linux 5.14 and later know it).

        No content changes: what a write would copy is copied, as it is.
        """
        self._madvise(address, length, _MADV_POPULATE_WRITE if write else _MADV_POPULATE_READ)


system: SystemCalls = SystemCalls()
_live: dict[int, LinearMemory] = {}
_next_id = 0
_next_source: ImageSource | None = None
_last_made: LinearMemory | None = None
# Whether the kernel refused the last memory.
_last_refused = False


def live_count() -> int:
    """Return how many memories are mapped now."""
    return len(_live)


def make_next_from(source: ImageSource | None) -> None:
    """Say what the next memory starts from; `None`: zeros. Called right before an instantiation."""
    global _next_source, _last_made, _last_refused
    _next_source = source
    _last_made = None
    _last_refused = False


def take_last_made() -> LinearMemory | None:
    """Return the memory made since `make_next_from`, once."""
    global _last_made, _next_source
    made, _last_made = _last_made, None
    _next_source = None  # it would keep the image's file open
    return made


def last_was_refused() -> bool:
    """Whether the kernel refused the memory that was wanted since `make_next_from`."""
    return _last_refused


def _error(what: str) -> int:
    """Return a real wasmtime error object: a small integer here would be taken for a pointer to one."""
    pointer = ffi.wasmtime_error_new(ctypes.create_string_buffer(what.encode()))
    return ctypes.cast(pointer, ctypes.c_void_p).value or die("no memory for an error object")


def _refuse(base: int, total: int, what: str) -> int:
    if system.munmap(base, total) != 0:
        die("a half-made memory could not be unmapped")
    return _error(what)


def _new_memory(env: Any, ty: Any, minimum: int, maximum: int, reserved: int, guard: int, out: Any) -> int:
    global _next_id, _last_made, _last_refused
    source = _next_source
    size = minimum if source is None else source.size
    if reserved != RESERVED_BYTES or guard < GUARD_BYTES_MIN:
        return _error(f"the engine asked for {reserved} + {guard} bytes of address space")
    if size < minimum or size % PAGE_BYTES or size > reserved or size > maximum:
        return _error(f"an image of {size} bytes does not fit a memory of {minimum} to {maximum} bytes")
    total = reserved + guard
    flags = _MAP_PRIVATE | _MAP_NORESERVE
    base = system.mmap(0, total, _PROT_NONE, flags | _MAP_ANONYMOUS, -1)
    if base in (0, MAP_FAILED):
        _last_refused = True
        return _error(f"no address space: {os.strerror(ctypes.get_errno())}")
    if source is None:
        ready = system.mprotect(base, size, _PROT_READ_WRITE) == 0
    else:
        # A file shorter than its mapping would be a SIGBUS in the middle of a guest.
        if source.file_bytes > size or os.fstat(source.fd).st_size < source.base + source.file_bytes:
            return _refuse(base, total, "the image is shorter than it should be")
        mapped = source.file_bytes
        ready = (
            system.mmap(base, mapped, _PROT_READ_WRITE, flags | _MAP_FIXED, source.fd, source.base) == base
            and system.mprotect(base + mapped, size - mapped, _PROT_READ_WRITE) == 0
        )
        for overlay in source.over:
            if overlay.end > size or os.fstat(overlay.fd).st_size < overlay.base + overlay.end:
                return _refuse(base, total, "a part of the image is shorter than it should be")
            ready = ready and _map_over(base, overlay)
    if not ready:
        _last_refused = True
        return _refuse(base, total, f"the image could not be mapped: {os.strerror(ctypes.get_errno())}")
    _next_id += 1
    _live[_next_id] = _last_made = LinearMemory(base, size, reserved, total)
    out[0].env = _next_id
    out[0].get_memory = _GET_MEMORY
    out[0].grow_memory = _GROW_MEMORY
    out[0].finalizer = _FINALIZER
    return 0


def _map_over(base: int, overlay: Overlay) -> bool:
    address, flags = base + overlay.offset, _MAP_PRIVATE | _MAP_NORESERVE | _MAP_FIXED
    at = overlay.base + overlay.offset
    return system.mmap(address, overlay.length, _PROT_READ_WRITE, flags, overlay.fd, at) == address


def _get_memory(env: int, size: Any, maximum: Any) -> int:
    memory = _live[env]
    size[0] = memory.size
    maximum[0] = memory.reserved
    return memory.base


def _grow_memory(env: int, new_size: int) -> int:
    memory = _live[env]
    growth = new_size - memory.size
    if growth < 0 or new_size > memory.reserved or new_size % PAGE_BYTES:
        return _error(f"a memory of {memory.size} bytes cannot grow to {new_size}")
    start = memory.base + memory.size
    if growth and system.mprotect(start, growth, _PROT_READ_WRITE) != 0:
        return _error(f"the memory could not grow: {os.strerror(ctypes.get_errno())}")
    if growth >= _HUGE_GROWTH_BYTES:
        system.madvise_huge(start, growth)
    memory.grew_to(new_size)
    return 0


def _finalize(env: int) -> None:
    memory = _live.pop(env)
    memory.closed = True
    if system.munmap(memory.base, memory.total) != 0:
        die("a memory could not be unmapped")


_FINALIZER_TYPE: Callable[..., Any] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# Made once and kept: a closure that is freed while wasmtime holds it is a jump into freed memory.
_GET_MEMORY = ffi.wasmtime_memory_get_callback_t(guarded(_get_memory))
_GROW_MEMORY = ffi.wasmtime_memory_grow_callback_t(guarded(_grow_memory))
_FINALIZER = _FINALIZER_TYPE(guarded(_finalize))
_NEW_MEMORY = ffi.wasmtime_new_memory_callback_t(guarded(_new_memory))
_CREATOR: Any = ffi.wasmtime_memory_creator()
_CREATOR.env = None
_CREATOR.new_memory = _NEW_MEMORY
_CREATOR.finalizer = _FINALIZER_TYPE(0)


def install_creator(config: Any) -> None:
    """Make every memory of engines built from `config` (a wasmtime.Config) one of ours."""
    ffi.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(_CREATOR))
