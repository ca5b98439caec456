"""The one reader and writer of guest memory. Nothing else in this package touches guest addresses.

Every pointer and length comes from hostile code and arrives as a signed 32-bit integer; bounds are
those of our own record of the mapping, read at the moment of the access.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from rlm_wasm.errors import BoundaryViolation, HostExhausted
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm.linear_unsafe import LinearMemory, Overlay

_U32: Final = 0xFFFF_FFFF
_Byte: Final = ctypes.c_char
# Up to so many bytes are copied without giving up the interpreter's lock, which takes longer than the copy.
_SHORT_BYTES: Final = 16_384
_copy_short: Final = ctypes.PyDLL(None).memcpy
_copy_short.argtypes, _copy_short.restype = [ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t], None


class GuestMemory:
    """Bounds-checked access to one linear memory."""

    __slots__ = ("_linear",)

    def __init__(self, linear: LinearMemory) -> None:
        self._linear = linear

    @property
    def size(self) -> int:
        """The memory's size in bytes; it never shrinks."""
        return self._linear.size

    @property
    def base(self) -> int:
        """The host address of byte 0, for comparison with wasmtime's own record."""
        return self._linear.base

    def check(self, pointer: int, length: int, *, length_max: int) -> int:
        """Return the unsigned offset of a range, after checking that it lies inside.

        Raises:
            BoundaryViolation: the range is longer than `length_max` or leaves the memory.
        """
        start, count = pointer & _U32, length & _U32
        if count > length_max:
            raise BoundaryViolation(f"{count} bytes where at most {length_max} are allowed")
        if self._linear.closed or start + count > self._linear.size:
            raise BoundaryViolation(f"{count} bytes at {start:#x} are outside guest memory")
        return start

    def read(self, pointer: int, length: int, *, length_max: int) -> bytes:
        """Return a copy of `length` bytes at `pointer`. Raises BoundaryViolation."""
        start = self.check(pointer, length, length_max=length_max)
        return ctypes.string_at(self._linear.base + start, length & _U32)

    def write(self, pointer: int, data: bytes | memoryview) -> None:
        """Copy `data` to `pointer`: bytes, or a view of a window. Raises BoundaryViolation."""
        length = len(data)
        if isinstance(data, memoryview):
            self.write_from(pointer, ctypes.addressof(_Byte.from_buffer(data)) if length else 0, length)
            return
        start = self.check(pointer, length, length_max=length)
        copy = _copy_short if length <= _SHORT_BYTES else ctypes.memmove
        copy(self._linear.base + start, data, length)

    def write_from(self, pointer: int, address: int, length: int) -> None:
        """Copy `length` bytes from the host `address`, kept alive by the caller. Raises BoundaryViolation."""
        start = self.check(pointer, length, length_max=length)
        ctypes.memmove(self._linear.base + start, address, length)

    def read_all(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """Return copies of (offset, length) each, which are in order. Raises BoundaryViolation."""
        if ranges:
            start, length = ranges[-1]
            self.check(start, length, length_max=length)
        base = self._linear.base
        return [(offset, ctypes.string_at(base + offset, length)) for offset, length in ranges]

    def view(self, offset: int, length: int) -> memoryview:
        """Return the bytes as they are, to be read before the guest runs on. Raises BoundaryViolation."""
        start = self.check(offset, length, length_max=length)
        return memoryview((ctypes.c_ubyte * length).from_address(self._linear.base + start)).cast("B")

    def lay_over(self, overlay: Overlay) -> None:
        """Map pages of a file that hold what the memory holds there, so that they count as unwritten.

        Raises:
            HostExhausted: the kernel does not; the memory must not be used again.
        """
        self.check(overlay.offset, overlay.length, length_max=overlay.length)
        if not self._linear.lay_over(overlay):
            raise HostExhausted("the pages of a guest cannot be mapped from a file")

    @property
    def wants_growth_populated(self) -> bool:
        """Whether the memory grew by so much that `populate_growth` comes before the guest runs on."""
        return self._linear.wants_populating

    def populate_growth(self) -> None:
        """Take the page faults of a piece of what the memory grew by."""
        self._linear.populate()

    def populate(self, offset: int, length: int, *, write: bool) -> None:
        """Take the page faults of a range ahead of need; what it holds stays. Raises BoundaryViolation."""
        start = self.check(offset, length, length_max=length)
        linear_unsafe.system.madvise_populate(self._linear.base + start, length, write=write)
