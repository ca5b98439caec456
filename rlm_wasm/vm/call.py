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
# How many, for C, made once.
_COUNTS: Final = tuple(map(ctypes.c_size_t, range(_ARGUMENTS_MAX + 1)))


class CallFrame:
    """What wasmtime borrows for a call: arguments, results, and the slots of a trap and an error.

    One instance's, for its calls one after another: to make them takes longer than a short call. A call that
    failed keeps its own for good, with what it says of why.
    """

    __slots__ = (
        "arguments",
        "context",
        "error",
        "error_reference",
        "free",
        "results",
        "trap",
        "trap_reference",
    )

    def __init__(self, context: Any) -> None:
        self.context: Final = context
        self.arguments: Final = _VALUES()
        self.results: Final = _VALUE()
        self.trap: Final = _TRAP_POINTER()
        self.error: Final = _ERROR_POINTER()
        # The same for C, made once.
        self.trap_reference: Final = ctypes.byref(self.trap)
        self.error_reference: Final = ctypes.byref(self.error)
        self.free = True


class Call:
    """A future of wasmtime, with the frame that it borrows. `function` is a reference to the export.

    The order is fixed, because the alternatives abort the process: poll until done or drop; the
    future is deleted once; the store is closed only afterwards.
    """

    __slots__ = ("_frame", "_function", "_future", "_handler", "_stack", "done", "result")

    def __init__(
        self,
        handler: ImportHandler,
        frame: CallFrame,
        function: Any,
        arguments: tuple[int, ...],
        results_n: int,
        stack: FiberStack | None = None,
    ) -> None:
        if not frame.free:
            raise InternalError("a frame is another call's")
        self._handler = handler
        self._function = function
        self._stack = stack
        self._frame: CallFrame | None = frame
        _PACKED[len(arguments)].pack_into(frame.arguments, 0, *[value & 0xFFFF_FFFF for value in arguments])
        self.done = False
        # The first one, as a signed 32-bit integer, once done.
        self.result = 0
        frame.free = False
        self._future: Any = make_future(
            frame.context,
            function,
            frame.arguments,
            _COUNTS[len(arguments)],
            frame.results,
            _COUNTS[results_n],
            frame.trap_reference,
            frame.error_reference,
        )

    def poll(self) -> bool:
        """Run the fiber until it ends (True), waits, or has used its slice (False)."""
        frame = self._frame
        if self._future is None or frame is None:
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
            (self.result,) = _RESULT.unpack_from(frame.results)
            self.close()
        return finished

    def take_trap(self) -> wasmtime.Trap | wasmtime.WasmtimeError | None:
        """Return why the call failed, or None if it did not. Call it once, after `done`."""
        frame = self._frame
        if frame is None:
            return None
        if frame.trap:
            return wasmtime.Trap._from_ptr(frame.trap)
        return wasmtime.WasmtimeError._from_ptr(frame.error) if frame.error else None

    def close(self) -> None:
        """Drop the future; a suspended fiber is unwound. Safe to call again."""
        future, self._future = self._future, None
        if future is None:
            return
        drop_future(future)
        frame = self._frame
        if frame is not None and not frame.trap and not frame.error:
            frame.free = True
            self._frame = None
