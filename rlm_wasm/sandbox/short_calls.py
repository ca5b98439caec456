"""wasmtime's functions that only read or set a number, called without giving up the GIL.

ctypes gives it up around every call, which suits one that runs a guest. Around one of 20 ns it costs
more than the call, and where another thread waits for the GIL, a switch of threads and back.
"""

from __future__ import annotations

import ctypes
from typing import Any

from wasmtime import _bindings as ffi
from wasmtime._ffi import dll

# The same library, already loaded.
_library = ctypes.PyDLL(dll._name, handle=dll._handle)


def _short(name: str) -> Any:
    function = _library[name]
    known = getattr(ffi, f"_{name}")
    function.argtypes, function.restype = known.argtypes, known.restype
    return function


get_fuel = _short("wasmtime_context_get_fuel")
set_fuel = _short("wasmtime_context_set_fuel")
memory_size = _short("wasmtime_memory_data_size")
memory_data = _short("wasmtime_memory_data")
# An address is compared, and never followed: as an integer, where the bindings make an object of it.
memory_data.restype = ctypes.c_size_t
