"""One call into a guest, on a fiber of its own. Its owner polls it; nothing else may."""

from __future__ import annotations

import ctypes
import struct
from typing import Any, Final

import wasmtime
from wasmtime import _bindings as ffi

from rlm_wasm.errors import InternalError
from rlm_wasm.vm import fiber_unsafe, imports
from rlm_wasm.vm.fatal import install_hook
from rlm_wasm.vm.fiber_unsafe import FiberStack
from rlm_wasm.vm.imports import ImportHandler
from rlm_wasm.vm.short_calls import drop_future, make_future, poll_future

_TRAP_POINTER: Final = ctypes.POINTER(ffi.wasm_trap_t)
_ERROR_POINTER: Final = ctypes.POINTER(ffi.wasmtime_error_t)
_ARGUMENTS_MAX: Final = 3  # no export of ours takes more
_VALUES: Final = ffi.wasmtime_val_t * _ARGUMENTS_MAX
_VALUE: Final = ffi.wasmtime_val_t * 1
_UNTIL_VALUE: Final = ffi.wasmtime_val_t.of.offset
_AFTER_VALUE: Final = ctypes.sizeof(ffi.wasmtime_val_t) - _UNTIL_VALUE - 4
# So many i32 arguments at once, as every one of ours is: a zero is that kind. And the first result.
_PACKED: Final = tuple(
    struct.Struct("<" + f"{_UNTIL_VALUE}xI{_AFTER_VALUE}x" * n) for n in range(_ARGUMENTS_MAX + 1)
)
_RESULT: Final = struct.Struct(f"<{_UNTIL_VALUE}xi{_AFTER_VALUE}x")


class Call:
    """A future of wasmtime with everything it borrows: arguments, results, trap and error slots.

    The order is fixed, because the alternatives abort the process: poll until done or drop; the
    future is deleted once; the store is closed only afterwards.
    """

    __slots__ = (
        "_arguments",
        "_error",
        "_function",
        "_future",
        "_handler",
        "_results",
        "_stack",
        "_trap",
        "done",
    )

    def __init__(
        self,
        handler: ImportHandler,
        context: Any,
        function: Any,
        arguments: tuple[int, ...],
        results_n: int,
        stack: FiberStack | None = None,
    ) -> None:
        self._handler = handler
        self._function = function
        self._stack = stack
        self._arguments = _VALUES()
        _PACKED[len(arguments)].pack_into(self._arguments, 0, *[value & 0xFFFF_FFFF for value in arguments])
        self._results = _VALUE()
        self._trap = _TRAP_POINTER()
        self._error = _ERROR_POINTER()
        self.done = False
        self._future: Any = make_future(
            context,
            ctypes.byref(function),
            self._arguments,
            len(arguments),
            self._results,
            results_n,
            ctypes.byref(self._trap),
            ctypes.byref(self._error),
        )

    def poll(self) -> bool:
        """Run the fiber until it ends (True), waits, or has used its slice (False)."""
        if self._future is None:
            raise InternalError("a finished call was polled")
        install_hook()
        imports.enter(self._handler)
        try:
            if self._stack is None:
                finished = bool(poll_future(self._future))
            else:
                finished = fiber_unsafe.poll(self._future, self._stack)
        finally:
            imports.leave()
        if finished:
            self.done = True
            self.close()
        return finished

    @property
    def result(self) -> int:
        """The first result as a signed 32-bit integer, once done."""
        result: int = _RESULT.unpack_from(self._results)[0]
        return result

    def take_trap(self) -> wasmtime.Trap | wasmtime.WasmtimeError | None:
        """Return why the call failed, or None if it did not. Call it once, after `done`."""
        if self._trap:
            return wasmtime.Trap._from_ptr(self._trap)
        if self._error:
            return wasmtime.WasmtimeError._from_ptr(self._error)
        return None

    def close(self) -> None:
        """Drop the future; a suspended fiber is unwound. Safe to call again."""
        future, self._future = self._future, None
        if future is not None:
            drop_future(future)
