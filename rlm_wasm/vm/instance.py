"""A guest program ready to instantiate, and one instance of it with its store and memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import wasmtime
from wasmtime import _bindings as ffi

from rlm_wasm.errors import GuestTrap, HostExhausted, InternalError, PolicyError
from rlm_wasm.system import forks
from rlm_wasm.system.memfd import MemoryFile
from rlm_wasm.vm import fiber_unsafe, linear_unsafe
from rlm_wasm.vm.call import Call, CallFrame
from rlm_wasm.vm.dirty_pages_unsafe import Range
from rlm_wasm.vm.engine import FIBER_STACK_BYTES, engine
from rlm_wasm.vm.fatal import install_hook
from rlm_wasm.vm.imports import ImportHandler, define_imports
from rlm_wasm.vm.linear_unsafe import ImageSource
from rlm_wasm.vm.memory_unsafe import GuestMemory
from rlm_wasm.vm.short_calls import error_at, get_fuel, memory_data, memory_size, set_fuel

# Fuel between two yields of a fiber: about 4 ms (100 M fuel ran 8.5 ms).
SLICE_FUEL: Final = 50_000_000
_TABLE_ELEMENTS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class FirstTouched:
    """The stretches of the base image that a first cell reads, and those it writes."""

    read: tuple[Range, ...] = ()
    written: tuple[Range, ...] = ()

    @property
    def written_bytes(self) -> int:
        """What an instance holds of its own once they are populated."""
        return sum(length for _, length in self.written)


class Program:
    """Compiled code, linked to the seven imports, over one image. Shared by all its instances.

    `image` may be a function that waits for the contents, so that reading them overlaps with loading the
    code; in a process that may read no file it comes as a sealed memory file. `close` frees the image; the
    instances must be closed before.
    """

    def __init__(
        self, module: wasmtime.Module, image: bytes | bytearray | Callable[[], bytes] | ImageSource
    ) -> None:
        self._module: Final = module
        self._linker = wasmtime.Linker(engine())
        define_imports(self._linker)
        self._pre = ctypes.POINTER(ffi.wasmtime_instance_pre_t)()
        error = ffi.wasmtime_linker_instantiate_pre(
            self._linker.ptr(), self._module.ptr(), ctypes.byref(self._pre)
        )
        if error:
            # For example an import that is none of the seven: refused here, before anything runs.
            raise PolicyError(f"the guest does not link: {wasmtime.WasmtimeError._from_ptr(error)}")
        self.image: Final = image if isinstance(image, ImageSource) else _mapped_file(image)
        # Learned by the first who wants to know (`page_profile.py`).
        self.first_touched: FirstTouched | None = None
        self._closed = False

    @property
    def pre(self) -> Any:
        """wasmtime's handle of the linked module."""
        if self._closed:
            raise InternalError("the program is closed")
        return self._pre

    def close(self) -> None:
        """Free the image and wasmtime's handle. Safe to call again."""
        if not self._closed:
            self._closed = True
            ffi.wasmtime_instance_pre_delete(self._pre)
            self._linker.close()
            self._module.close()


def _mapped_file(image: bytes | bytearray | Callable[[], bytes]) -> ImageSource:
    contents = image() if callable(image) else image
    file = MemoryFile.of("rlm-image", contents)
    return ImageSource(file.fd, len(contents), len(contents), file)


# The image to map and the memory just mapped go through module state of `linear_unsafe`.
_instantiating: Final = forks.module_lock()


class Instance:
    """One store, one instance, one memory. Owned by one session; not thread-safe.

    Raises:
        PolicyError: the memory cap is below the size of the image.
        HostExhausted: the kernel refuses the memory.
    """

    def __init__(self, program: Program, *, memory_bytes_max: int, image: ImageSource | None = None) -> None:
        source = image or program.image
        _require_room(memory_bytes_max, source.size)
        self._program = program
        self._store: wasmtime.Store | None = wasmtime.Store(engine())
        self._context: Any = self._store._context()
        self._set_limits(memory_bytes_max)
        self._exports: dict[str, Any] = {}
        # References to functions among them, made once: ctypes makes a new object at each look.
        self._functions: dict[str, Any] = {}
        # Made with the first call: an instance that is only made is not to pay for it.
        self._frame: CallFrame | None = None
        self._memory_reference: Any = None
        self._stack: fiber_unsafe.FiberStack | None = None
        self._fuel_slot = ctypes.c_uint64()
        self._fuel_reference = ctypes.byref(self._fuel_slot)
        self._instance = ffi.wasmtime_instance_t()
        try:
            self.set_fuel(SLICE_FUEL)
            self._slice_fuel = 0
            self.set_slice_fuel(SLICE_FUEL)
            self.memory: Final = GuestMemory(self._instantiate(source))
        except BaseException:
            self.close()
            raise

    def _instantiate(self, source: ImageSource) -> linear_unsafe.LinearMemory:
        install_hook()
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ctypes.POINTER(ffi.wasmtime_error_t)()
        with _instantiating:
            linear_unsafe.make_next_from(source)
            future = ffi.wasmtime_instance_pre_instantiate_async(
                self._program.pre,
                self._context,
                ctypes.byref(self._instance),
                ctypes.byref(trap),
                ctypes.byref(error),
            )
            # There is no start function and no data to copy: the first poll finishes.
            while not ffi.wasmtime_call_future_poll(future):
                pass
            ffi.wasmtime_call_future_delete(future)
            linear = linear_unsafe.take_last_made()
            refused = linear_unsafe.last_was_refused()
        if error and refused:
            raise HostExhausted(f"the guest gets no memory: {wasmtime.WasmtimeError._from_ptr(error)}")
        self._check(error)
        if trap:
            raise GuestTrap(f"instantiation trapped: {wasmtime.Trap._from_ptr(trap)}")
        if linear is None:
            raise InternalError("the module was instantiated without a memory of ours")
        return linear

    def set_memory_max(self, memory_bytes_max: int) -> None:
        """Bound what the memory may grow to from now on.

        Raises:
            PolicyError: it is larger already.
        """
        _require_room(memory_bytes_max, self.memory.size)
        self._set_limits(memory_bytes_max)

    def _set_limits(self, memory_bytes_max: int) -> None:
        if self._store is None:
            raise InternalError("the instance is closed")
        ffi.wasmtime_store_limiter(self._store.ptr(), memory_bytes_max, _TABLE_ELEMENTS_MAX, 1, 4, 1)

    # -- calls ------------------------------------------------------------------------------------

    def begin(self, handler: ImportHandler, name: str, arguments: tuple[int, ...], results_n: int) -> Call:
        """Return a call of the exported function `name`, not yet polled."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = ctypes.byref(self._export(name).of.func)
        if fiber_unsafe.WANTED and (self._stack is None or self._stack.closed):
            self._stack = fiber_unsafe.make(FIBER_STACK_BYTES)
        frame = self._frame
        if frame is None or not frame.free:
            frame = self._frame = CallFrame(self._context)
        return Call(handler, frame, function, arguments, results_n, self._stack)

    def _export(self, name: str) -> Any:
        found = self._exports.get(name)
        if found is None:
            found = ffi.wasmtime_extern_t()
            key = name.encode()
            if not ffi.wasmtime_instance_export_get(
                self._context, ctypes.byref(self._instance), ctypes.create_string_buffer(key), len(key),
                ctypes.byref(found),
            ):  # fmt: skip
                raise InternalError(f"the guest has no export {name}")
            self._exports[name] = found
        return found

    # -- fuel and memory ----------------------------------------------------------------------------

    def fuel(self) -> int:
        """Return the fuel left."""
        error = get_fuel(self._context, self._fuel_reference)
        if error:
            raise InternalError(f"wasmtime: {error_at(error)}")
        left: int = self._fuel_slot.value
        return left

    def set_fuel(self, fuel: int) -> None:
        """Set the fuel left."""
        self._fuel_slot.value = fuel
        error = set_fuel(self._context, self._fuel_slot)
        if error:
            raise InternalError(f"wasmtime: {error_at(error)}")

    def set_slice_fuel(self, fuel: int) -> None:
        """Yield after each `fuel`; takes effect with the next `set_fuel`."""
        if fuel != self._slice_fuel:
            self._check(ffi.wasmtime_context_fuel_async_yield_interval(self._context, fuel))
            self._slice_fuel = fuel

    def verify_memory(self) -> None:
        """Check that wasmtime's record of the memory is ours: address and size, never while a call lives.

        Raises:
            InternalError: they differ; the instance must not be used again.
        """
        if self._memory_reference is None:
            self._memory_reference = ctypes.byref(self._export("memory").of.memory)
        memory = self._memory_reference
        base, size = memory_data(self._context, memory), memory_size(self._context, memory)
        if base != self.memory.base or size != self.memory.size:
            raise InternalError("wasmtime and the sandbox disagree about a guest's memory")

    def stack_pointer(self) -> int:
        """Return the guest's own stack pointer, an offset in its memory; never while a call lives."""
        value = ffi.wasmtime_val_t()
        pointer = self._export("__stack_pointer").of.global_
        ffi.wasmtime_global_get(self._context, ctypes.byref(pointer), ctypes.byref(value))
        return int(value.of.i32) & 0xFFFF_FFFF

    @property
    def closed(self) -> bool:
        """Whether the store is gone."""
        return self._store is None

    def close(self) -> None:
        """Free store, instance and mapping. The caller has closed every call. Safe to call again."""
        store, self._store = self._store, None
        if store is not None:
            self._exports.clear()
            self._functions.clear()
            self._memory_reference = None
            with contextlib.suppress(ValueError):
                store.close()
            if self._stack is not None:
                self._stack.close()

    @staticmethod
    def _check(error: Any) -> None:
        if error:
            raise InternalError(f"wasmtime: {wasmtime.WasmtimeError._from_ptr(error)}")


def _require_room(memory_bytes_max: int, size: int) -> None:
    if memory_bytes_max < size:
        raise PolicyError(f"sandbox.memory_bytes_max is {memory_bytes_max}, below the image's {size} bytes")
