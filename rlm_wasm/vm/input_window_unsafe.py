"""The worker's end of a window of an input: a file of the host's, mapped to be copied from.

Mapped privately, as all memory of a locked worker has to be, and never written to: so each page is the file's
own, and what the host writes next is there. The host cuts the file when the operation that it was lent for is
over; nothing may look at it then.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Final

from rlm_wasm.errors import HostExhausted
from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX
from rlm_wasm.system.memfd import MemoryFile
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm.linear_unsafe import MAP_FAILED

_PROT_READ: Final = 1
_MAP_PRIVATE: Final = 2


class _Mapped(ctypes.c_ubyte * WINDOW_BYTES_MAX):  # type: ignore[misc]
    """The bytes of a mapping, which goes when nobody looks at them."""


def mapped_window(file: MemoryFile) -> memoryview:
    """Return a window's bytes, there as long as anybody looks at them. Writing there is fatal.

    Raises:
        HostExhausted: the kernel does not map it.
    """
    address = linear_unsafe.system.mmap(0, WINDOW_BYTES_MAX, _PROT_READ, _MAP_PRIVATE, file.fd)
    if address in (0, MAP_FAILED):
        raise HostExhausted("a window of an input cannot be mapped")
    mapped = _Mapped.from_address(address)
    weakref.finalize(mapped, linear_unsafe.system.munmap, address, WINDOW_BYTES_MAX).atexit = False
    return memoryview(mapped).cast("B")
