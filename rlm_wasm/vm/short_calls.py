"""wasmtime's functions that each cell calls, without what the bindings do around them.

ctypes gives up the GIL around every call, which suits one that runs a guest. Around one of 20 ns it costs
more than the call, and where another thread waits for the GIL, a switch of threads and back. So those that
run nothing of a guest's, such as one that reads a number, keep it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import wasmtime
from wasmtime import _bindings as ffi
from wasmtime._ffi import dll

# The same library, already loaded.
_library = ctypes.PyDLL(dll._name, handle=dll._handle)


def _short(name: str, result: type[ctypes.c_void_p | ctypes.c_size_t]) -> Any:
    # The arguments are C objects, made once: to have them converted takes three times as long as the call.
    function = _library[name]
    # An integer, also for a pointer: the bindings would make an object of it, each time.
    function.restype = result
    return function


def error_at(address: int) -> wasmtime.WasmtimeError:
    """Return the error that one of these functions gave the address of; it is freed with the object."""
    return wasmtime.WasmtimeError._from_ptr(ctypes.cast(address, ctypes.POINTER(ffi.wasmtime_error_t)))


# Each gives the address of an error, or None.
get_fuel = _short("wasmtime_context_get_fuel", ctypes.c_void_p)
set_fuel = _short("wasmtime_context_set_fuel", ctypes.c_void_p)
memory_size = _short("wasmtime_memory_data_size", ctypes.c_size_t)
# An address that is compared, and never followed.
memory_data = _short("wasmtime_memory_data", ctypes.c_size_t)

# A call's future, by its address. To make one runs nothing; to poll or drop it may run the guest.
_POINTER = ctypes.c_void_p
make_future = _library["wasmtime_func_call_async"]
make_future.restype = _POINTER  # the arguments are C objects, made once
_library_without_gil = ctypes.CDLL(dll._name, handle=dll._handle)
poll_future = _library_without_gil["wasmtime_call_future_poll"]
poll_future.argtypes, poll_future.restype = [_POINTER], ctypes.c_bool
drop_future = _library_without_gil["wasmtime_call_future_delete"]
drop_future.argtypes, drop_future.restype = [_POINTER], None
